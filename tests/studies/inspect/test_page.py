import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_parser import Page, check_is_accessible, check_is_self_contained
from PIL import Image

from regraft.data.dataset import BadFile, Dataset, Sample
from regraft.data.image_stats import ImageStats
from regraft.data.quality.findings import Finding, Inspection, audit
from regraft.data.scan import scan
from regraft.errors import ImageError
from regraft.report.plots import style
from regraft.studies.inspect import gallery
from regraft.studies.inspect import page as page_module
from regraft.studies.inspect.page import write_page
from regraft.text import one_line, shorten

HOSTILE = (
    "<script>alert(1)</script>",
    "\" onload='alert(1)' x=\"",
    "</style><img src=http://example.com/x.png>",
    "--> ]]> &lt;b&gt; &amp;",
    "javascript:alert(1)",
    "line\nbreak\ttab\x00",
    "\u202egnp.exe",
    "مرحبا",
    "😀" * 60,
    "x" * 300,
)


def page_of(inspection: Inspection, folder: Path, seed: int = 0) -> Page:
    write_page(inspection, folder / "page.html", seed=seed)
    return Page((folder / "page.html").read_text(encoding="utf-8"))


def in_memory(paths: list[str], labels: list[str], **more: object) -> Dataset:
    """Small images, each of one color."""
    arrays = {path: np.full((6, 9, 3), 20 * (i % 12), np.uint8) for i, path in enumerate(paths)}
    samples = tuple(Sample(path, label, f"{i}") for i, (path, label) in enumerate(zip(paths, labels, strict=True)))
    return Dataset(Path("/data/set"), samples, tuple(sorted(set(labels))), _arrays=arrays, **more)  # type: ignore[arg-type]


def full(names: list[str]) -> Inspection:
    """Ten names, put wherever a name can be."""
    assert len(set(names)) == 10
    paths = [f"{name}/{i}" for i, name in enumerate(names)] + [f"more/{i}" for i in range(10)]
    labels = names + [name for i, name in enumerate(names) for _ in range(i)][:10]  # so that no two orders are right
    samples = in_memory(paths, labels)
    dataset = replace(
        samples,
        root=Path("/data") / names[0].replace("/", "|"),
        bad=tuple(BadFile(f"bad {name}", name) for name in names),
        ignored=tuple(names),
        notes=tuple(names),
    )
    findings = (
        Finding("unreadable", "error", names[1], names[2], tuple((b.path,) for b in dataset.bad), tuple(names)),
        Finding("conflict", "error", "t", "a", ((paths[0], paths[1]), tuple(paths[2:])), (names[3], names[4])),
        Finding("label_error", "warning", "t", "a", tuple((path,) for path in paths), tuple(names * 2)),
        Finding("shortcut", "info", "t", "a", details=tuple(names)),
    )
    return Inspection(dataset, findings, (names[5],))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(full(list(HOSTILE)), tmp_path_factory.mktemp("hostile"))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=30), min_size=10, max_size=10, unique=True))
def test_names_change_no_element_and_no_attribute(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    folder = tmp_path_factory.mktemp("page")
    assert page_of(full(names), folder).shape == page_of(full(list("abcdefghij")), folder).shape


def test_names_are_shown_as_text(hostile: Page) -> None:
    shown = [shorten(one_line(name), 80) for name in HOSTILE]
    rows = hostile.one("table", "classes").text
    headings = " ".join(heading.text for heading in hostile.all("h3"))
    assert all(name in rows and name in headings for name in shown)
    assert hostile.one("h1").text == one_line(HOSTILE[0]).replace("/", "|")
    notes = [item.text for item in hostile.all("li")]
    assert all(shorten(one_line(name), 600) in notes for name in HOSTILE)


def test_lone_surrogates_can_be_written(tmp_path: Path) -> None:
    assert "\ufffd" in page_of(full(["\ud800", *HOSTILE[1:]]), tmp_path).one("table", "classes").text


def test_the_page_is_self_contained_and_accessible(hostile: Page) -> None:
    check_is_self_contained(hostile)
    check_is_accessible(hostile)


def test_the_policy_allows_the_style_and_inline_pictures_alone(hostile: Page) -> None:
    (policy,) = [m.attributes["content"] for m in hostile.all("meta") if "http-equiv" in m.attributes]
    digest = base64.b64encode(hashlib.sha256(hostile.one("style").text.encode()).digest()).decode()
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_the_colors_match_the_charts_and_have_enough_contrast(hostile: Page) -> None:
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#[0-9A-F]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", hostile.one("style").text, re.DOTALL)
    )
    for name in ("BLUE", "ORANGE", "GREEN", "RED", "INK", "MUTED", "LINE", "SHADE"):
        assert light[name.lower()] == getattr(style, name)
    for colors in (light, dark):
        for ink, ground in (("ink", "ground"), ("muted", "ground"), ("muted", "shade"), ("link", "ground")):
            assert contrast(colors[ink], colors[ground]) >= 4.5
        for badge in ("blue", "orange", "red"):
            assert contrast(colors[f"on-{badge}"], colors[badge]) >= 4.5


def contrast(one: str, other: str) -> float:
    """By WCAG 2.2."""

    def luminance(color: str) -> float:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_findings_are_in_order_with_advice(hostile: Page) -> None:
    findings = hostile.all("article", "finding")
    assert [f.attributes["class"].split()[1] for f in findings] == ["error", "error", "warning", "info"]
    kinds = ("unreadable", "conflict", "label_error", "shortcut")
    assert all(kind in finding.text for kind, finding in zip(kinds, findings, strict=True))
    assert one_line(HOSTILE[2]) in findings[0].text
    assert "2 errors 1 warning 1 info" in hostile.one("p", "verdict").text
    (command,) = [e.text for e in hostile.all("code") if e.text.startswith("regraft clean")]
    assert command == "regraft clean DATA --drop unreadable,conflict --out clean.csv"


def test_sets_mark_what_differs(tmp_path: Path) -> None:
    paths = [f"{i}.png" for i in range(20)]
    dataset = in_memory(paths, ["cat"] * 18 + ["dog"] * 2)
    finding = Finding("conflict", "error", "t", "a", (tuple(paths),), ("nearly the same picture",))
    page = page_of(Inspection(dataset, (finding,)), tmp_path)
    tags = [e.text for e in page.all("span", "tag differs")]
    assert len(tags) == gallery.PER_SET
    assert tags.count("dog") == 2
    assert [e.text for e in page.all("summary")] == ["12 more of this set"]


def test_a_real_folder_is_described_in_full(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 4)):
        for label in ("ant", "bee"):
            (tmp_path / "set" / part / label).mkdir(parents=True)
            for i in range(count):
                size = (20 + 2 * i, 30)
                pixels = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize(size)
                pixels.save(tmp_path / "set" / part / label / f"{i}.png")
    (tmp_path / "set" / "train" / "bee" / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "set" / "train" / "bee" / "copy.png").write_bytes(
        (tmp_path / "set" / "test" / "bee" / "0.png").read_bytes()
    )
    (tmp_path / "set" / "train" / "bee" / "notes.txt").write_text("x")
    dataset = scan(tmp_path / "set")
    inspection = Inspection(dataset, tuple(audit(dataset)), ("Labels were not judged.",))
    page = page_of(inspection, tmp_path)
    assert page.one("h1").text == "set"
    numbers = {what.text: number.text for what, number in zip(page.all("dt"), page.all("dd"), strict=True)}
    assert (numbers["images"], numbers["classes"], numbers["train"], numbers["test"]) == ("25", "2", "17", "8")
    assert (numbers["unreadable"], numbers["other file"]) == ("1", "1")
    assert len(page.all("article", "finding")) == len(inspection.findings) >= 3
    assert "train/bee/broken.jpg not an image that can be read" in page.one("main").text
    cells = [e.text for e in page.elements if e.tag in ("th", "td")]
    assert " ".join(["bee", "13", "9", "4"]) in " ".join(cells)
    assert len(page.all("div", "class")) == 2
    assert len(page.all("figure", "mean")) == 2
    charts = [e.attributes["aria-label"] for e in page.all("svg", "chart")]
    assert len(charts) == 6
    assert charts[0].startswith("Shorter side of 25 images: 20 to 30, median 24")
    assert "Labels were not judged." in page.one("main").text
    assert "PNG25" in page.one("main").text


def test_arrays_without_findings(squares: Dataset, tmp_path: Path) -> None:
    page = page_of(Inspection(squares, ()), tmp_path)
    assert "No problem was found." in page.one("p", "verdict").text
    assert page.one("h1").text == "Images in memory"
    assert not page.all("article")
    assert [e.text for e in page.all("p", "same")] == ["all 40", "all 1"]
    assert len(page.all("img")) == 3 * 9
    assert "Each class has 16 images." in page.one("main").text


def test_no_image_and_no_class(tmp_path: Path) -> None:
    page = page_of(Inspection(Dataset(Path("x"), (), ()), ()), tmp_path)
    assert page.one("main").text.count("None.") == 5
    page = page_of(Inspection(Dataset(Path("x"), (), ("a", "b")), ()), tmp_path)
    assert len(page.all("tr")) == 3
    page = page_of(Inspection(replace(in_memory(["1"], ["a"]), classes=("a", "b")), ()), tmp_path)
    assert "The largest class has 1 image, the smallest has none" in page.one("main").text
    assert len(page.all("div", "class")) == 1


def test_the_name_of_a_url_is_its_last_part(squares: Dataset, tmp_path: Path) -> None:
    page = page_of(Inspection(replace(squares, root="s3://bucket/birds/"), ()), tmp_path)
    assert page.one("h1").text == "birds"


def test_classes_of_the_same_size_are_called_neither_largest_nor_smallest(tmp_path: Path) -> None:
    names = [str(i) for i in range(gallery.MAX_CLASSES + 1)]
    text = page_of(Inspection(in_memory(names, names), ()), tmp_path).one("main").text
    assert "The first 20 classes" in text
    assert "The last 20 classes" in text
    assert "The first and the last 20 classes are shown." in text


def test_a_missing_image_is_marked(tmp_path: Path) -> None:
    dataset = in_memory(["a/1", "a/2", "b/1"], ["a", "a", "b"])
    dataset._arrays.pop("a/2")
    finding = Finding("tiny", "warning", "t", "a", (("a/1",), ("a/2",)), ("1 x 1", "2 x 2"))
    page = page_of(Inspection(dataset, (finding,)), tmp_path)
    assert [e.text for e in page.all("span", "frame none")] == ["unreadable"] * 2
    assert [e.text for e in page.all("figcaption") if "mean" in e.text] == ["mean of 1"] * 2


def test_the_same_seed_gives_the_same_page(tmp_path: Path) -> None:
    dataset = in_memory([f"{i}" for i in range(60)], ["a", "b"] * 30)
    pages = []
    for seed in (1, 1, 2):
        write_page(Inspection(dataset, ()), tmp_path / "page.html", seed=seed)
        pages.append((tmp_path / "page.html").read_bytes())
    assert pages[0] == pages[1] != pages[2]


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Far more of everything than is shown."""
    paths = [f"train/{i % 1500}/{i}" for i in range(6000)]
    dataset = replace(
        in_memory(paths, [f"class {i % 1500 if i < 5990 else 7}" for i in range(6000)]),
        notes=tuple(f"note {i}" for i in range(500)),
        ignored=tuple(f"other {i}" for i in range(500)),
    )
    pairs = tuple(zip(paths[::2], paths[1::2], strict=True))
    findings = [Finding("duplicates", "error", "t", "a", pairs, ("the same file",) * len(pairs))]
    findings += [Finding("tiny", "warning", "t", "a", tuple((p,) for p in paths), ("1 x 1",) * 6000)] * 30
    findings += [Finding("one", "warning", "t", "a", (tuple(paths),), ("x" * 5000,))]
    findings += [Finding("class_names", "info", "t" * 5000, "a")] * 300
    return page_of(Inspection(dataset, tuple(findings)), tmp_path_factory.mktemp("big"))


def test_a_big_data_set_gives_a_page_of_limited_size(big: Page) -> None:
    assert len(big.source) < 8_000_000
    articles = big.all("article", "finding")
    assert len(articles) == gallery.MAX_FINDINGS
    pictures = len(big.all("figcaption")) - len(big.all("figure", "mean")) - len(big.all("svg", "chart"))
    assert pictures == gallery.IN_FINDINGS
    assert len(big.all("div", "class")) == gallery.MAX_CLASSES
    assert len(big.all("tr")) < gallery.MAX_CLASSES + page_module.MAX_ROWS + 30
    text = big.one("main").text
    for left in ("2,888 more; ", "5,776 more; ", "132 more findings", "460 more classes", "300 more; "):
        assert f"and {left}" in text
    assert "2,988 more sets, by name" in text
    assert "5,976 more files, by name" in text


def with_facts(count: int, sizes: np.ndarray) -> Dataset:
    image_stats = [ImageStats(int(s), int(s), 10, "JPEG", "RGB", 1, 1, 0.0, 0.5, 0.1, 0.01) for s in sizes]
    samples = tuple(
        Sample(f"{i}", "ab"[i % 2], f"{i}", size=(f.width, f.height), image_stats=f)
        for i, f in enumerate(image_stats[:count])
    )
    arrays = {s.path: np.zeros((2, 2, 3), np.uint8) for s in samples}
    return Dataset(Path("x"), samples, ("a", "b"), _arrays=arrays)


def test_histograms_count_every_image(tmp_path: Path) -> None:
    sizes = np.geomspace(20, 2_000_000, 100)
    page = page_of(Inspection(with_facts(100, sizes), ()), tmp_path)
    assert [e.text for e in page.all("p", "same")] == ["all 10", "all 0.50", "all 0.10", "all 0.01"]
    aspect, size = page.all("svg", "chart")
    assert "median 6.33 kB" in size.text
    assert "as stored, log scale" in size.text
    assert "20 bytes" in size.text
    assert "2 MB" in size.text
    assert "log scale" in aspect.text
    assert [e.text for e in page.all("summary")] == ["All quantiles"]


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (999_499, "999 kB"), (999_500, "1 MB"),
     (76_232_121, "76.2 MB"), (5e12, "5 TB"), (5e15, "5,000 TB")],
)  # fmt: skip
def test_bytes_in_words(number: float, words: str) -> None:
    assert page_module._size(number) == words


def test_a_source_that_cannot_be_opened_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Dataset, sample: Sample) -> np.ndarray:
        raise ImageError("gone", sample.path)

    monkeypatch.setattr(Dataset, "source", failing)
    page = page_of(Inspection(in_memory(["1", "2"], ["a", "b"]), ()), tmp_path)
    assert [e.text for e in page.all("span", "frame none")] == ["unreadable"] * 2


def test_classes_that_come_together_are_in_a_table(tmp_path: Path) -> None:
    dataset = in_memory([f"{i}.png" for i in range(8)], ["cat|dog", "dog", "", "cat|dog|eel"] * 2)
    dataset = replace(dataset, classes=("cat", "dog", "eel"), task="multilabel")
    page = page_of(Inspection(dataset, tuple(audit(dataset))), tmp_path)
    check_is_accessible(page)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    table = text[text.index("Classes that come together</h3>") :].split("</table>")[0]
    rows = [re.findall(r">(\d+)</td>", row) for row in table.split("<tr>")[2:]]
    assert rows == [["6", "4", "2"], ["4", "4", "2"], ["2", "2", "2"]]  # dog, cat, eel
    assert "no label: 2 images" in text
    assert "2 labels: 2 images" in text

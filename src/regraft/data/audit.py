"""What is wrong with the data: findings, each with its severity, the files by name, and what to do.

Enters: a `Dataset`, in parts or not. Leaves: `Finding`s, the gravest first. Nothing here reads an image: all is known
since the scan.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from posixpath import splitext
from typing import Any, Literal

import numpy as np

from regraft.data.dataset import PARTS, Dataset, Pair, Sample
from regraft.data.layout import spelled_alike
from regraft.data.shortcuts import Shortcut, measure_shortcuts
from regraft.data.split import bundle_ids
from regraft.errors import counted, listed
from regraft.shown import Shown

Severity = Literal["error", "warning", "info"]
#: The gravest first.
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")

#: Below so many pixels on its shorter side an image is tiny.
TINY = 16
#: Longer than so many times its width, or wider than so many times its height, an image is extreme.
EXTREME = 4.0
#: Modes of Pillow that need no word.
_USUAL_MODES = frozenset({"RGB", "RGBA", "L", "LA", "P"})
#: Endings that a format may have.
_ENDINGS: Mapping[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
#: A class with fewer images than folds cannot be cross-validated.
_FOLDS = 5
#: The largest class has so many times the images of the smallest.
_IMBALANCE = 10.0


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or odd.

    Attributes:
        kind: Its name, the same for all of its sort, such as `near_duplicates`.
        severity: `error`: results will be wrong; `warning`: they may be; `info`: good to know.
        title: What it is, in a sentence.
        advice: What to do about it.
        files: Paths: each entry is one file, or a set of files that belong together.
        details: A few words for each entry of `files`, or for the finding as a whole where there are none.
    """

    kind: str
    severity: Severity
    title: str
    advice: str
    files: tuple[tuple[str, ...], ...] = ()
    details: tuple[str, ...] = ()


def audit(dataset: Dataset) -> list[Finding]:
    """Everything that the scan makes known.

    Args:
        dataset: From `scan`, or the `dataset` of a split.

    Returns:
        The gravest first.
    """
    bundles = bundle_ids(dataset.samples)
    found = [
        *(Finding("structure", "error", fault, "Mend the folders or the manifest; training will not begin before.")
          for fault in dataset.faults),
        *_unreadable(dataset),
        *_sets(dataset.samples, bundles),
        *_classes(dataset, bundles),
        *_odd_files(dataset.samples),
        *_shortcuts(measure_shortcuts(dataset.samples, bundles)),
    ]  # fmt: skip
    return by_severity(found)


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """The gravest first, otherwise as they come."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _one_each(paths: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    return tuple((path,) for path in paths)


#: Kind of an unreadable file by what its reason contains, and what the finding says.
_REASONS = (
    ("empty", r"^empty file", "has no bytes", "have no bytes"),
    ("bomb", r"pixels, more than", "is too large to be decoded safely", "are too large to be decoded safely"),
    ("truncated", r"truncat|cut off|not enough|unexpected end", "is cut off", "are cut off"),
    ("unreadable", "", "cannot be read", "cannot be read"),
)


def _unreadable(dataset: Dataset) -> Iterator[Finding]:
    left = list(dataset.bad)
    for kind, pattern, one, many in _REASONS:
        chosen = [bad for bad in left if re.search(pattern, bad.reason, re.IGNORECASE)]
        left = [bad for bad in left if bad not in chosen]
        if chosen:
            yield Finding(
                kind,
                "error",
                f"{counted(len(chosen), 'image')} {one if len(chosen) == 1 else many}.",
                "They are left out. Get them anew, or remove them.",
                _one_each(bad.path for bad in chosen),
                tuple(bad.reason for bad in chosen),
            )


def _sets(samples: Sequence[Sample], bundles: np.ndarray) -> Iterator[Finding]:
    """Sets of images that show the same: in several parts, with several labels, or just several."""
    same: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        same[sample.twins or sample.sha256].append(sample)
    groups = [group for group in same.values() if len(group) > 1]
    exact = [group for group in groups if len({s.sha256 for s in group}) == 1]
    near = [group for group in groups if len({s.sha256 for s in group}) > 1]

    def finding(
        kind: str, severity: Severity, chosen: Sequence[Sequence[Sample]], title: str, advice: str
    ) -> Iterator[Finding]:
        if chosen:
            yield Finding(
                kind,
                severity,
                title,
                advice,
                tuple(tuple(s.path for s in group) for group in chosen),
                tuple(_same_what(group) for group in chosen),
            )

    def extra(chosen: Sequence[Sequence[Sample]]) -> int:
        return sum(map(len, chosen)) - len(chosen)

    leaks = [group for group in groups if len({s.part for s in group}) > 1]
    yield from finding(
        "leak", "error", leaks,
        f"{counted(len(leaks), 'picture is', 'pictures are')} in more than one part, as the same file or nearly so: "
        "what is measured on val and test is too good.",
        "Keep each in one part: split anew (regraft split), or drop the copies (regraft clean --drop leak).",
    )  # fmt: skip
    conflicts = [group for group in groups if len({s.label for s in group}) > 1]
    yield from finding(
        "conflict", "error", conflicts,
        f"{counted(len(conflicts), 'picture has', 'pictures have')} more than one label: copies or near duplicates are "
        "labelled differently.",
        "Look at them and keep the right label; or drop all of them (regraft clean --drop conflict).",
    )  # fmt: skip
    yield from finding(
        "duplicates", "warning", exact,
        f"{counted(extra(exact), 'image is an exact copy', 'images are exact copies')} of others.",
        "They count more than once. A split keeps copies together; regraft clean --drop duplicates keeps one of each.",
    )  # fmt: skip
    yield from finding(
        "near_duplicates", "warning", near,
        f"{counted(extra(near), 'image shows', 'images show')} nearly the same as others: re-encoded, resized, "
        "cropped, brighter, mirrored, or taken twice.",
        "A split keeps them together; regraft clean --drop near_duplicates keeps one of each.",
    )  # fmt: skip
    of_group: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        if sample.group is not None and sample.part is not None:
            of_group[sample.group].add(sample.part)
    divided = sorted(group for group, parts in of_group.items() if len(parts) > 1)
    if divided:
        yield Finding(
            "divided_group", "error",
            f"{counted(len(divided), 'group is', 'groups are')} in more than one part: {listed(divided)}.",
            "Keep each group in one part: split anew (regraft split).",
        )  # fmt: skip


def _same_what(group: Sequence[Sample]) -> str:
    labels = sorted({s.label for s in group})
    parts = [part for part in PARTS if part in {s.part for s in group}]
    kind = "the same file" if len({s.sha256 for s in group}) == 1 else "nearly the same picture"
    return "; ".join(
        [kind, *([f"labels: {', '.join(labels)}"] if len(labels) > 1 else []), *([", ".join(parts)] if parts else [])]
    )


#: Correlation of features from which on two images that look the same by their pixels are the same to a network too.
CONFIRMED = 0.3


def with_features(finding: Finding, pairs: Sequence[Pair]) -> Finding:
    """The same finding with what a network says of its near duplicates.

    Args:
        finding: Of any kind; only sets that contain one of `pairs` change.
        pairs: With `features`.

    Returns:
        Each set's detail tells the least likeness of its pairs; the title, how many sets the network sees as different.
    """
    place = {path: number for number, files in enumerate(finding.files) if len(files) > 1 for path in files}
    least: dict[int, float] = {}
    for pair in pairs:
        number = place.get(pair.first)
        if number is not None and number == place.get(pair.second) and pair.features is not None:
            least[number] = min(pair.features, least.get(number, 1.0))
    if not least:
        return finding
    details = list(finding.details)
    for number, likeness in least.items():
        doubt = "" if likeness >= CONFIRMED else ", look at them"
        details[number] += f"; features alike to {likeness:.2f}{doubt}"
    doubtful = sum(likeness < CONFIRMED for likeness in least.values())
    agrees = (
        f" To the backbone {counted(doubtful, 'set looks', 'sets look')} different." if doubtful else
        " The backbone's features confirm it."
    )  # fmt: skip
    return replace(finding, title=finding.title + agrees, details=tuple(details))


def _classes(dataset: Dataset, bundles: np.ndarray) -> Iterator[Finding]:
    for names in spelled_alike(dataset.classes):
        yield Finding(
            "class_names", "error",
            f"Classes differ only in how they are spelled: {', '.join(map(repr, names))}.",
            "If they are one class, give them one name.",
        )  # fmt: skip
    counts = dataset.counts()
    empty = [name for name, count in counts.items() if not count]
    if empty:
        yield Finding(
            "empty_class", "error",
            f"{counted(len(empty), 'class has', 'classes have')} no readable image: {listed(empty)}.",
            "Add images or remove the class.",
        )  # fmt: skip
    parts = {s.part for s in dataset.samples if s.part}
    for part in PARTS:
        if part in parts:
            present = {s.label for s in dataset.samples if s.part == part}
            missing = [name for name in dataset.classes if name not in present and counts[name]]
            if missing:
                yield Finding(
                    "missing_in_part", "warning",
                    f"{counted(len(missing), 'class has', 'classes have')} no image in {part}: {listed(missing)}.",
                    "Nothing can be said of them there. Move some, or split anew.",
                )  # fmt: skip
    alone = Counter(label for label, _ in {(s.label, int(b)) for s, b in zip(dataset.samples, bundles, strict=True)})
    few = [name for name in dataset.classes if 0 < alone[name] < _FOLDS]
    if few:
        short = [name for name in few if alone[name] < len(PARTS)]
        yield Finding(
            "few_images", "error" if short else "warning",
            f"{counted(len(few), 'class has', 'classes have')} fewer images that may be divided than the {_FOLDS} "
            f"folds of a cross-validation{', or even than train, val and test' if short else ''}: "
            f"{listed(f'{name} ({alone[name]})' for name in few)}.",
            "Add images; until then nothing measured for these classes means much.",
        )  # fmt: skip
    filled = {name: count for name, count in counts.items() if count}
    most, least = max(filled, key=counts.__getitem__, default=""), min(filled, key=counts.__getitem__, default="")
    if filled and counts[most] / counts[least] >= _IMBALANCE:
        yield Finding(
            "imbalance", "warning",
            f"{most!r} has {counts[most] / counts[least]:.0f} times as many images as {least!r} "
            f"({counts[most]:,} and {counts[least]:,}).",
            "Judge by macro-F1 and per-class recall; --set training.class_weights=balanced weighs the classes alike.",
        )  # fmt: skip


def _odd_files(samples: Sequence[Sample]) -> Iterator[Finding]:
    known = [(sample, sample.facts) for sample in samples if sample.facts is not None]
    if not known:
        return
    typical = float(np.median([min(facts.width, facts.height) for _, facts in known]))
    sharp = float(np.median([facts.sharpness for _, facts in known]))

    small = max(TINY, typical / 8)
    checks: tuple[tuple[str, Severity, str, str, Mapping[str, str]], ...] = (
        ("wrong_extension", "warning", "{} not of the format that the name says.",
         "They are read all the same. Rename them, as other programs may refuse them.",
         {s.path: f"{f.format} as {splitext(s.path)[1] or 'no ending'}" for s, f in known
          if not s.path.endswith(_ENDINGS.get(f.format, ())) and splitext(s.path)[1].lower() not in
          _ENDINGS.get(f.format, ())}),
        ("animated", "warning", "{} animated; the first frame alone is used.",
         "Check that the first frame shows what the label says.",
         {s.path: f.format for s, f in known if f.animated}),
        ("tiny", "warning", f"{{}} tiny (shorter side below {small:.0f} pixels).",
         "There is little to be seen in them. Find the originals, or drop them.",
         {s.path: f"{f.width} x {f.height}" for s, f in known if f.width < small or f.height < small}),
        ("extreme_aspect", "warning", f"{{}} more than {EXTREME:g} times as long as wide.",
         "They are squeezed into a square. Crop them, or train with --set model.resize=pad.",
         {s.path: f"{f.width} x {f.height}" for s, f in known
          if f.width > EXTREME * f.height or f.height > EXTREME * f.width}),
        ("blank", "warning", "{} of nearly one colour.",
         "Look whether they show anything.",
         {s.path: f"contrast {f.contrast:.3f}" for s, f in known if f.contrast < 0.01}),
        ("blurred", "info", "{} much less sharp than the others.",
         "Look whether they are out of focus, or enlarged.",
         {s.path: f"sharpness {f.sharpness:.4f}, usually {sharp:.4f}" for s, f in known
          if f.contrast >= 0.01 and f.sharpness < sharp / 5}),
        ("odd_mode", "info", "{} in an unusual colour mode, and converted to RGB.",
         "Check one of them in the pictures of samples.",
         {s.path: f.mode for s, f in known if f.mode not in _USUAL_MODES}),
        ("rotated", "info", "{} turned by EXIF, as they are for training and prediction alike.",
         "Nothing, if other programs heed EXIF too.",
         {s.path: f"orientation {f.orientation}" for s, f in known if f.orientation != 1}),
    )  # fmt: skip
    for kind, severity, title, advice, details in checks:
        if details:
            yield Finding(
                kind, severity, title.format(counted(len(details), "image is", "images are")), advice,
                _one_each(details), tuple(details.values()),
            )  # fmt: skip


#: From which strength on a shortcut is an error, and a warning; what a network sees may belong to the matter.
_STRONG, _NOTABLE, _NOTABLE_VISIBLE = 0.8, 0.3, 0.5


def _shortcuts(shortcuts: Sequence[Shortcut]) -> Iterator[Finding]:
    for shortcut in shortcuts:
        if shortcut.strength < (_NOTABLE_VISIBLE if shortcut.visible else _NOTABLE):
            continue
        grave = shortcut.strength >= _STRONG and not shortcut.visible
        yield Finding(
            "shortcut", "error" if grave else "warning",
            f"The label can be guessed from the {shortcut.name}: {100 * shortcut.accuracy:.0f} % of each class, on "
            f"average, by that alone; chance gives {100 * shortcut.chance:.0f} %.",
            "A network may learn this in place of what the image shows. Make it the same for all classes, or test on "
            "images where it is.",
            details=shortcut.examples,
        )  # fmt: skip


@dataclass(frozen=True)
class Inspection(Shown, by="regraft.report.notebook.inspection"):
    """A data set and what was found in it.

    Attributes:
        dataset: With its parts where it has any.
        findings: The gravest first.
        notes: What was not looked at, and why, in sentences.
    """

    dataset: Dataset
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def worst(self) -> Severity | None:
        """The severity of the gravest finding."""
        return self.findings[0].severity if self.findings else None

    def __repr__(self) -> str:
        """One line."""
        counts = Counter(finding.severity for finding in self.findings)
        return f"Inspection({self.dataset!r}, " + ", ".join(f"{counts[s]} {s}" for s in SEVERITIES) + ")"

    def to_json(self) -> dict[str, Any]:
        """Everything, in plain values; paths are relative to the data set's root."""
        return {
            "data": str(self.dataset.root),
            "statistics": describe(self.dataset),
            "findings": [asdict(finding) for finding in self.findings],
            "pairs": [asdict(pair) for pair in self.dataset.pairs],
            "notes": [*self.dataset.notes, *self.notes],
        }


def describe(dataset: Dataset) -> dict[str, Any]:
    """Counts by class and part, and how sizes, formats and looks are distributed.

    Returns:
        Plain values. Quantiles are minimum, 5 %, 25 %, median, 75 %, 95 % and maximum.
    """
    parts = [part for part in PARTS if part in {s.part for s in dataset.samples}]
    by_part = Counter((s.label, s.part) for s in dataset.samples)
    facts = [s.facts for s in dataset.samples if s.facts is not None]
    numbers: dict[str, list[float]] = {
        "width": [f.width for f in facts],
        "height": [f.height for f in facts],
        "aspect_ratio": [f.width / f.height for f in facts],
        "file_bytes": [f.bytes for f in facts],
        "brightness": [f.brightness for f in facts],
        "contrast": [f.contrast for f in facts],
        "sharpness": [f.sharpness for f in facts],
    }
    return {
        "images": len(dataset),
        "unreadable": len(dataset.bad),
        "other_files": len(dataset.ignored),
        "bytes": sum(numbers["file_bytes"]),
        "classes": {
            name: {"all": count, **{part: by_part[name, part] for part in parts}}
            for name, count in dataset.counts().items()
        },
        "parts": {part: sum(by_part[name, part] for name in dataset.classes) for part in parts},
        "formats": dict(Counter(f.format for f in facts).most_common()),
        "modes": dict(Counter(f.mode for f in facts).most_common()),
        "quantiles": {
            name: [round(float(q), 5) for q in np.quantile(values, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1))]
            for name, values in numbers.items()
            if values
        },
    }

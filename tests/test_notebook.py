"""The notebook runs from top to bottom on few images, and the file in the repository has no outputs."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FILE = Path(__file__).parent.parent / "notebooks" / "regraft.ipynb"
#: Values of the form, and other settings, with which the notebook takes little time.
FEWER = {
    r"^IMAGES = .*$": "IMAGES = 100",
    r"^EPOCHS = .*$": "EPOCHS = 1",
    r"^COMPARE_SECONDS = .*$": "COMPARE_SECONDS = 25",
    # The settings for the default backbone are those of the demo, which is tested elsewhere.
    r"\"efficientnet_lite0\", (.*), shorter_side=.*": r'"test_efficientnet", \1, weights="none", image_size=64)',
    r"\"blocks\.5\"": '"blocks.2"',
    r"baselines=\[\"ann\", \"cnn\"\]": 'baselines=["ann"]',
}
#: Beginnings of cells whose last line displays a result, and words in it.
DISPLAYED = {
    "dataset = ": "Images per class",
    "inspection = ": "Finding and advice",
    "VAL, TEST = ": "train",
    "def build()": "test accuracy",
    "if DATA:\n    options": "test accuracy",
    "regraft.evaluate(run)": "95 % confidence interval",
    "test = run": "attribution for",
    "from regraft.config": "Models trained on the same images",
    "exports = ": "Accepted: compared with the run",
    "if new is None": "cell0",
    "import csv": "polycrystalline",
}
PICTURES = ("from IPython.display import Image", 'Image(run.path / "plots" / "c', 'Image(run.path / "plots" / "s')


def read() -> nbformat.NotebookNode:
    return nbformat.read(FILE, as_version=4)


def test_file_has_no_outputs() -> None:
    """The license of the images does not allow them here, and outputs would be from another version."""
    book = read()
    nbformat.validate(book)
    for cell in book.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert not cell.get("attachments")
    assert "widgets" not in book.metadata


def test_every_heading_is_a_question() -> None:
    headings = re.findall(r"^## (.*)$", "\n".join(c.source for c in read().cells if c.cell_type == "markdown"), re.M)
    assert len(headings) >= 15
    assert all(heading.endswith("?") for heading in headings)


@pytest.mark.parametrize(
    ("given", "installed"),
    [
        ("", "file://{folder}/regraft-0.2.0-py3-none-any.whl"),
        ("regraft-0.2.0-py3-none-any.whl", "file://{folder}/regraft-0.2.0-py3-none-any.whl"),
        ("https://example.org/regraft-0.2.0-py3-none-any.whl", "https://example.org/regraft-0.2.0-py3-none-any.whl"),
        ("https://example.org/regraft.git", "git+https://example.org/regraft.git"),
    ],
)
def test_regraft_is_installed_from_a_wheel_or_a_repository(
    given: str, installed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "regraft-0.2.0-py3-none-any.whl").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    source = next(cell.source for cell in read().cells if "%pip" in cell.source)
    source = re.sub('^SOURCE = ""', f"SOURCE = {given!r}", source, flags=re.M)
    said: list[str] = []
    exec(re.sub(r"%pip install --quiet (.*)", r"said.append(f\1)", source), {"said": said})
    assert said == [f"regraft[demo,onnx] @ {installed.format(folder=tmp_path)}"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::RuntimeWarning")
def test_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    book = read()
    for pattern, replacement in FEWER.items():
        cell = next(c for c in book.cells if re.search(pattern, c.source, re.M))
        cell.source = re.sub(pattern, replacement, cell.source, flags=re.M)
    NotebookClient(book, timeout=280, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()

    code = {cell.source: cell.outputs for cell in book.cells if cell.cell_type == "code"}
    for source, outputs in code.items():
        assert not [o for o in outputs if o.output_type == "error"], source

    def last(beginning: str) -> dict[str, str]:
        outputs = next(outputs for source, outputs in code.items() if source.startswith(beginning))
        return dict(outputs[-1].data)

    for beginning, words in DISPLAYED.items():
        html = last(beginning)["text/html"]
        assert html.startswith('<div class="regraft">'), beginning
        assert words in html, beginning
    for beginning in PICTURES:
        assert len(last(beginning)["image/png"]) > 10_000, beginning
    for beginning in ("dataset = ", "inspection = ", "test = run", "if new is None"):
        assert "data:image/jpeg;base64," in last(beginning)["text/html"], beginning
    # Progress is above the result, and has ended.
    (trained,) = (outputs for source, outputs in code.items() if source.startswith("if DATA:\n    options"))
    assert "finetune 1" in trained[0].data["text/html"]
    assert "<progress" not in trained[0].data["text/html"]
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "fine-tuned" / "exports" / "onnx").is_dir()
    assert (folder / "fine-tuned.zip").stat().st_size > 100_000

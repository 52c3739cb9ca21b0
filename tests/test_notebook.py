"""The notebook runs from the top, on few images, and the file that is kept has no outputs."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FILE = Path(__file__).parent.parent / "notebooks" / "regraft.ipynb"
#: What the form offers, as small as the story can be told with.
FEWER = {"IMAGES": 200, "EPOCHS": 1, "COMPARE_SECONDS": 45}
#: Beginnings of the cells whose last line shows itself, and what must be seen.
SHOWN = {
    "dataset = ": "Images of each class",
    "inspection = ": "What was found, and what to do",
    "VAL, TEST = ": "train",
    "def build()": "test accuracy",
    "if DATA:\n    options": "test accuracy",
    "regraft.evaluate(run)": "95 % interval",
    "told = ": "evidence for",
    "from regraft.config": "Models trained on the same images",
    "exports = ": "Accepted: compared with the run",
    "if new is None": "cell0",
}
PICTURES = ("from IPython.display import Image", 'Image(run.path / "plots" / "c', 'Image(run.path / "plots" / "s')


def read() -> nbformat.NotebookNode:
    return nbformat.read(FILE, as_version=4)


def test_what_is_kept_has_no_outputs() -> None:
    """The images' licence does not allow them here, and outputs would be of another version."""
    book = read()
    nbformat.validate(book)
    for cell in book.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert not cell.get("attachments")
    assert "widgets" not in book.metadata


def test_every_section_begins_with_its_question() -> None:
    headings = re.findall(r"^## (.*)$", "\n".join(c.source for c in read().cells if c.cell_type == "markdown"), re.M)
    assert len(headings) >= 15
    assert all(heading.endswith("?") for heading in headings)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::RuntimeWarning")
def test_it_runs_from_the_top(tmp_path: Path) -> None:
    book = read()
    for name, value in FEWER.items():
        cell = next(c for c in book.cells if re.search(rf"^{name} = ", c.source, re.M))
        cell.source = re.sub(rf"^{name} = .*$", f"{name} = {value}", cell.source, flags=re.M)
    NotebookClient(book, timeout=280, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()

    code = {cell.source: cell.outputs for cell in book.cells if cell.cell_type == "code"}
    for source, outputs in code.items():
        assert not [o for o in outputs if o.output_type == "error"], source

    def last(beginning: str) -> dict[str, str]:
        outputs = next(outputs for source, outputs in code.items() if source.startswith(beginning))
        return dict(outputs[-1].data)

    for beginning, words in SHOWN.items():
        html = last(beginning)["text/html"]
        assert html.startswith('<div class="regraft">'), beginning
        assert words in html, beginning
    for beginning in PICTURES:
        assert len(last(beginning)["image/png"]) > 10_000, beginning
    for beginning in ("dataset = ", "inspection = ", "told = ", "if new is None"):
        assert "data:image/jpeg;base64," in last(beginning)["text/html"], beginning
    # Progress stands above the result, and is over.
    (trained,) = (outputs for source, outputs in code.items() if source.startswith("if DATA:\n    options"))
    assert "finetune 1" in trained[0].data["text/html"]
    assert "<progress" not in trained[0].data["text/html"]
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "fine-tuned" / "exports" / "onnx").is_dir()
    assert (folder / "fine-tuned.zip").stat().st_size > 1_000_000

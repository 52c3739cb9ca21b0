"""The `README.md` of an export: what is in the folder, and how to call it."""

from __future__ import annotations

from regraft.exporting.formats.base import Format

_TEXT = """# {backbone} for {classes} classes, in the format {name}

| | name | dtype | shape | |
|---|---|---|---|---|
| input | `images` | uint8 | (N, {size}, {size}, 3) | RGB pixels from 0 to 255; normalization is inside the graph |
| output | `probabilities` | float32 | (N, {classes}) | calibrated; in the order of `classes` in `export.json` |

```sh
python predict.py IMAGE         # needs {requirements}, and not regraft
regraft predict . IMAGE{trust}
regraft verify .{trust}                # complete, unchanged, and the same answers on this machine?
```

- {files}: the model
- `export.json`: class names, preprocessing, versions and hashes of the files
- `parity.json`: how near its predictions are to those of the run that it was made from
- `golden/`: images with the predictions for them, which `regraft verify` repeats

regraft's documentation has code for plain Python, TensorFlow, PyTorch and JavaScript, in "Load an export in your own
program" of the guide to exports (`docs/export.md`).
"""


def readme(export_format: Format, *, backbone: str, classes: int, size: int) -> str:
    """Return the text for an export of a network with inputs of `size` pixels a side."""
    return _TEXT.format(
        backbone=backbone, classes=classes, name=export_format.name, size=size,
        requirements=export_format.script.requirements, trust=" --trust" if export_format.runs_code else "",
        files=", ".join(f"`{file}`" for file in export_format.files),
    )  # fmt: skip

"""The `README.md` of an export: what is in the folder, and how to call it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regraft.data.band_values import Bands, format_numbers
from regraft.data.labels import Task
from regraft.data.preprocessing import Preprocessing
from regraft.exporting.formats.base import Format

_TEXT = """# {backbone} for {purpose}, in the format {name}

| | name | dtype | shape | |
|---|---|---|---|---|
| input | `images` | uint8 | (N, {height}, {width}, {channels}) | {pixels} from 0 to 255; normalized inside the graph |
| output | `probabilities` | float32 | (N, {classes}) | {meaning} |
{outputs}
```sh
python predict.py IMAGE         # needs {requirements}, and not regraft
regraft predict . IMAGE{trust}
regraft verify .{trust}                # complete, unchanged, and the same answers on this machine?
```

- {files}: the model
- `export.json`: class names, preprocessing, versions and hashes of the files
- `parity.json`: how near its predictions are to those of the run that it was made from
- `mlbom.json`: what it is made of, with hashes and licenses, and what it is not for (CycloneDX)
- `golden/`: images with the predictions for them, which `regraft verify` repeats
{tree}
{maps}regraft's documentation has code for plain Python, TensorFlow, PyTorch and JavaScript, in "Load an export in your
own program" of the guide to exports (`docs/export.md`).
"""


#: What the output is, whose name is the same for all tasks.
_MEANINGS: Mapping[Task, str] = {
    "classification": "calibrated; in the order of `classes` in `export.json`",
    "multilabel": "calibrated, each by itself; in the order of `classes` in `export.json`, whose `thresholds` say from "
    "which probability on an image has each label",
    "regression": "no probability but the number itself; `half_width` in `export.json` is half of its interval",
}

#: A paragraph for an export with a tree of classes.
_TREE = """
The classes are the ends of a tree: `taxonomy` in `export.json` has the node above each. The probability of a node is
the sum over the classes below it; `python predict.py --min-confidence 0.8 IMAGE` answers with the class, or where none
is that sure with the deepest node that is.
"""
#: A paragraph for an export of a model that was trained on groups of images, by task.
_GROUPS: Mapping[Task, str] = {
    "classification": """
The model was trained to give one answer for several pictures of one thing ({pool_by}), and takes one picture. The
answer for a group is that of the mean of its pictures' logits: average the logarithms of `probabilities` over the
pictures, take the exponential, and divide by the sum. `regraft predict . TABLE --pool-by COLUMN{trust}` does so.
The answer for a group is calibrated, and that for one picture is not.
""",
    "multilabel": """
The model was trained to give one answer for several pictures of one thing ({pool_by}), and takes one picture. The
answer for a group is that of the mean of its pictures' logits: bring `probabilities` between 1.2e-7 and 1 - 1.2e-7,
which is how near to 1 float32 comes, average log(p / (1 - p)) over the pictures, and take the sigmoid.
`regraft predict . TABLE --pool-by COLUMN{trust}` does so.
The answer for a group is calibrated, and that for one picture is not.
""",
    "regression": """
The model was trained to give one number for several pictures of one thing ({pool_by}), and takes one picture. The
number of a group is the mean over its pictures. `regraft predict . TABLE --pool-by COLUMN{trust}` computes it.
`half_width` is that of the number of a group; that of one picture has no interval.
""",
}
#: The same where the classes have an order.
_GROUPS_IN_ORDER = """
The model was trained to give one answer for several pictures of one thing ({pool_by}), and takes one picture. The
classes have an order, and the answer for a group is that of the mean of its pictures' cumulative logits: raise
`probabilities` to the power `temperature` in `export.json` and divide by the sum; for each class but the last take
log(a / b), with a the sum over the classes above it and b the sum over the others; average these over the pictures;
the sigmoids of the averages are the probabilities of a class above each, whose differences are those of the classes;
raise these to the power 1 / `temperature` and divide by the sum. `regraft predict . TABLE --pool-by COLUMN{trust}` does
so. The answer for a group is calibrated, and that for one picture is not.
"""
#: Rows of the table for an export with maps.
_OUTPUTS = """| output | `logits` | float32 | (N, {classes}) | before {before} |
| output | `evidence` | float32 | (N, {classes}, {rows}, {columns}) | for each class, by position in the image |
"""
#: Grad-CAM in plain NumPy, for an export with maps.
_MAPS = """`regraft explain . IMAGE` draws heat maps. Without regraft, Grad-CAM of a class is its evidence less
that for the others, each weighted by its share of their probability:

```python
from pathlib import Path
import numpy as np
{imports}

here = Path(".")
{load}
pixels = np.zeros((1, {height}, {width}, {channels}), np.uint8)  # your image
probabilities, logits, evidence = {predict_all}
target = int(probabilities[0].argmax())
shares = np.exp(logits[0] - np.delete(logits[0], target).max())
shares[target] = 0
heat = evidence[0, target] - np.tensordot(shares / shares.sum(), evidence[0], 1)
heat = np.maximum(heat, 0)  # ({rows}, {columns}), from the top left of the pixels to the bottom right
```

"""
#: The same where an image has any number of labels.
_LABEL_MAPS = """`regraft explain . IMAGE` draws heat maps. Without regraft, Grad-CAM of a label is its evidence:

```python
from pathlib import Path
import numpy as np
{imports}

here = Path(".")
{load}
pixels = np.zeros((1, {height}, {width}, {channels}), np.uint8)  # your image
probabilities, logits, evidence = {predict_all}
target = int(probabilities[0].argmax())
heat = np.maximum(evidence[0, target], 0)  # ({rows}, {columns}), from the top left of the pixels to the bottom right
```

"""


def readme(
    export_format: Format,
    preprocessing: Preprocessing,
    *,
    backbone: str,
    classes: int,
    maps: Mapping[str, Any] | None = None,
    task: Task = "classification",
    quantity: str = "",
    has_tree: bool = False,
    pool_by: str = "",
    ordered: bool = False,
) -> str:
    """Return the text for an export of a network with inputs of this preprocessing; `maps` as in `export.json`."""
    several_labels = task == "multilabel"
    outputs, snippet = "", ""
    sides = dict(zip(("height", "width", "channels"), preprocessing.pixel_shape, strict=True))
    if maps is not None:
        values = {"classes": classes, **sides, **dict(zip(("rows", "columns"), maps["grid"], strict=True))}
        values |= {"activation": maps["activation"], **export_format.script._asdict()}
        values["before"] = "sigmoid" if several_labels else f"temperature and {maps['activation']}"
        outputs = _OUTPUTS.format(**values)
        if several_labels or maps["activation"] == "softmax":
            snippet = (_LABEL_MAPS if several_labels else _MAPS).format(**values)
    trust = " --trust" if export_format.runs_code else ""
    of_groups = _GROUPS_IN_ORDER if ordered else _GROUPS[task]
    groups = of_groups.format(pool_by=pool_by, trust=trust) if pool_by else ""
    return _TEXT.format(
        pixels=_pixels(preprocessing.bands), backbone=backbone, purpose=quantity or f"{classes} classes",
        classes=classes, name=export_format.name, **sides,
        requirements=export_format.script.requirements, trust=trust,
        outputs=outputs, maps=snippet, meaning=_MEANINGS[task], tree=(_TREE if has_tree else "") + groups,
        files=", ".join(f"`{file}`" for file in export_format.files),
    )  # fmt: skip


def _pixels(bands: Bands | None) -> str:
    if bands is None:
        return "RGB pixels"
    return f"the bands {format_numbers(bands.numbers)}, scaled as `export.json` says,"

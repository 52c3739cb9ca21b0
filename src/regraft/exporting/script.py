"""The script beside an export: from image files to classes with the format's own runtime and nothing of regraft.

Enters: a format and the model's preprocessing. Leaves: Python source.
"""

from __future__ import annotations

from regraft.data.preprocessing import Preprocessing
from regraft.exporting.form import Format

_TEXT = '''"""Predict images with {needs} alone: python predict.py IMAGE..."""
import json
import sys
from pathlib import Path

import numpy as np
{imports}
from PIL import Image

here = Path(__file__).parent
classes = json.loads((here / "export.json").read_text(encoding="utf-8"))["classes"]
{load}
turns = {{2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}}  # from EXIF's orientation to Pillow's transposition
for name in sys.argv[1:]:
    image = Image.open(name)
    image.draft(image.mode, ({twice}, {twice}))
    turn = turns.get(image.getexif().get(274))
    image = image if turn is None else image.transpose(Image.Transpose(turn))
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:  # over white
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    image = image.convert("RGB")
{resize}
    probabilities = {run}
    print(name, classes[int(probabilities.argmax())], f"{{probabilities.max():.4f}}")
'''


def script_for(form: Format, preprocessing: Preprocessing) -> str:
    """The source of `predict.py`."""
    size, filter_ = preprocessing.size, f"Image.Resampling.{preprocessing.interpolation.upper()}"
    if preprocessing.resize == "stretch":
        resize = [f"image = image.resize(({size}, {size}), {filter_})"]
    elif preprocessing.resize == "crop":
        resize = [
            "left, top = (max(image.width - image.height, 0) / 2, max(image.height - image.width, 0) / 2)",
            "box = (left, top, image.width - left, image.height - top)",
            f"image = image.resize(({size}, {size}), {filter_}, box=box)",
        ]
    else:
        colour = tuple(round(255 * channel) for channel in preprocessing.mean)
        resize = [
            f"scale = {size} / max(image.size)",
            "inner = image.resize([max(1, round(side * scale)) for side in image.size], " + filter_ + ")",
            f"image = Image.new('RGB', ({size}, {size}), {colour})",
            f"image.paste(inner, (({size} - inner.width) // 2, ({size} - inner.height) // 2))",
        ]
    return _TEXT.format(
        needs=form.needs, imports=form.script[0], load=form.script[1], run=form.script[2], twice=2 * size,
        resize="\n".join(f"    {line}" for line in resize),
    )  # fmt: skip

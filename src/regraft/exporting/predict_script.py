"""The script `predict.py` of an export, which needs the format's runtime, NumPy and Pillow, and not regraft."""

from __future__ import annotations

import ast
import inspect
import sys

from regraft.data import rgb
from regraft.data.preprocessing import Preprocessing
from regraft.exporting.formats.base import Format

_TEMPLATE = '''"""Predict images with {requirements} alone: python predict.py IMAGE..."""

{imports}

try:  # reads HEIC files, if it is installed
    import pi_heif

    pi_heif.register_heif_opener()
except ImportError:
    pass
try:  # reads JPEG XL files, if pillow-jxl-plugin is installed
    import pillow_jxl  # noqa: F401
except ImportError:
    pass

{rules}


here = Path(__file__).parent
{names}
{load}
for name in sys.argv[1:]:
    with Image.open(name) as file:
        file.draft(file.mode, ({draft_size}, {draft_size}))
        image = upright_rgb(file, {value_range})
{resize}
    probabilities = {predict}
{answer}
'''
#: How the script reads the names of the classes, and prints its answer: one class, or any number of labels.
_ONE = (
    'classes = json.loads((here / "export.json").read_text(encoding="utf-8"))["classes"]',
    '    print(name, classes[int(probabilities.argmax())], f"{probabilities.max():.4f}")',
)
_SEVERAL = (
    'about = json.loads((here / "export.json").read_text(encoding="utf-8"))',
    """    answers = zip(probabilities.tolist(), about["thresholds"], about["classes"])
    labels = [f"{label} {p:.4f}" for p, threshold, label in sorted(answers, reverse=True) if p >= threshold]
    print(name, ", ".join(labels) or "none")""",
)


def predict_script(export_format: Format, preprocessing: Preprocessing, *, several_labels: bool = False) -> str:
    """Return the source of `predict.py`, which contains the rules by which regraft's own decoder converts colors."""
    names, answer = _SEVERAL if several_labels else _ONE
    (rows, columns), resampling = preprocessing.shape, f"Image.Resampling.{preprocessing.interpolation.upper()}"
    if preprocessing.resize == "stretch":
        resize = [f"image = image.resize(({columns}, {rows}), {resampling})"]
    elif preprocessing.resize == "crop":
        resize = [
            f"width = min(image.width, image.height * {columns} / {rows})",
            f"height = min(image.height, image.width * {rows} / {columns})",
            "left, top = (image.width - width) / 2, (image.height - height) / 2",
            "box = (left, top, left + width, top + height)",
            f"image = image.resize(({columns}, {rows}), {resampling}, box=box)",
        ]
    else:
        color = tuple(round(255 * channel) for channel in preprocessing.mean)
        resize = [
            f"scale = min({rows} / image.height, {columns} / image.width)",
            f"inner = image.resize([max(1, round(side * scale)) for side in image.size], {resampling})",
            f"image = Image.new('RGB', ({columns}, {rows}), {color})",
            f"image.paste(inner, (({columns} - inner.width) // 2, ({rows} - inner.height) // 2))",
        ]
    source = inspect.getsource(rgb)
    lines, tree = source.splitlines(), ast.parse(source)
    nodes = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    imports = {ast.unparse(node) for node in nodes} | {"import json", "import sys", "from pathlib import Path"}
    imports |= set(export_format.script.imports.splitlines())
    return _TEMPLATE.format(
        **export_format.script._asdict() | {"imports": "\n".join(sorted(imports, key=_import_order))},
        rules="\n".join(lines[nodes[-1].end_lineno or 0 :]).strip(), draft_size=2 * max(rows, columns),
        value_range=preprocessing.value_range, resize="\n".join(f"    {line}" for line in resize),
        names=names, answer=answer,
    )  # fmt: skip


def _import_order(line: str) -> tuple[bool, bool, bool, str]:
    package = line.split()[1].partition(".")[0]
    return package != "__future__", package not in sys.stdlib_module_names, line.startswith("from"), line

"""The script `predict.py` of an export, which needs the format's runtime, NumPy and Pillow, and not regraft."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from types import ModuleType

from regraft.data import array_files, rgb, tiff_bands, tree_answers
from regraft.data import bands as bands_module
from regraft.data.decode import MAX_PIXELS, VALUES_PER_PIXEL
from regraft.data.labels import Task
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
{read}
{resize}
    probabilities = {predict}
{answer}
'''
#: How the script reads the names of the classes, and prints its answer: one class, any number of labels, or a number.
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
_NUMBER = (
    'about = json.loads((here / "export.json").read_text(encoding="utf-8"))',
    """    value, half_width = float(probabilities[0]), None if "pool_by" in about else about["half_width"]
    interval = "" if half_width is None else f"{value - half_width:.6g} to {value + half_width:.6g}"
    print(name, about["classes"][0], f"{value:.6g}", interval)""",
)
#: The same for a tree of classes, whose nodes answer where no class is sure: `predict.py --min-confidence P IMAGE...`.
_TREE = (
    """about = json.loads((here / "export.json").read_text(encoding="utf-8"))
classes, above = about["classes"], about["taxonomy"]


def depth(node):
    return 0 if above[node] is None else 1 + depth(above[node])


nodes = classes + sorted(set(above) - set(classes), key=lambda node: (-depth(node), node))
parents = np.array([-1 if above[node] is None else nodes.index(above[node]) for node in nodes])
min_confidence = 0.0
if sys.argv[1:2] == ["--min-confidence"]:
    min_confidence = float(sys.argv[2])
    del sys.argv[1:3]""",
    """    sums = node_probabilities(np.asarray(probabilities, np.float64)[None], parents)
    found = int(answers(sums, parents, len(classes), min_confidence)[0])
    if found >= 0:
        print(name, nodes[found], f"{sums[0, found]:.4f}")
    else:
        print(name, "(not sure)", f"{sums.max():.4f}")""",
)
_ANSWERS: dict[Task, tuple[str, str]] = {"classification": _ONE, "multilabel": _SEVERAL, "regression": _NUMBER}

_READ_COLORS = """with Image.open(name) as file:
    file.draft(file.mode, ({draft_size}, {draft_size}))
    image = upright_rgb(file, {value_range})"""
_READ_BANDS = """raster = read_bands(name, {max_values})
if raster is None:
    with Image.open(name) as file:
        raster = bands_of(file)
image = raster.select({numbers}).to_uint8({ranges})
height, width = image.shape[:2]"""
_RESIZE_BANDS = """

def resized(pixels, size, box=None):
    channels = [Image.fromarray(np.ascontiguousarray(channel)) for channel in pixels.transpose(2, 0, 1)]
    return np.stack([np.asarray(one.resize(size, {resampling}, box=box)) for one in channels], axis=2)
"""


def predict_script(
    export_format: Format, preprocessing: Preprocessing, *, task: Task = "classification", has_tree: bool = False
) -> str:
    """Return the source of `predict.py`, which contains the rules by which regraft's own decoder converts images.

    With a tree of classes it also contains those by which nodes answer.
    """
    names, answer = _TREE if has_tree else _ANSWERS[task]
    resampling, bands = f"Image.Resampling.{preprocessing.interpolation.upper()}", preprocessing.bands
    if bands is None:
        modules: tuple[ModuleType, ...] = (rgb,)
        read = _READ_COLORS.format(draft_size=2 * max(preprocessing.shape), value_range=preprocessing.value_range)
        resize, functions = _resize_image(preprocessing, resampling), ""
    else:
        modules = (rgb, array_files, tiff_bands, bands_module)
        read = _READ_BANDS.format(max_values=VALUES_PER_PIXEL * MAX_PIXELS, numbers=bands.numbers, ranges=bands.ranges)
        resize, functions = _resize_bands(preprocessing), _RESIZE_BANDS.format(resampling=resampling)
    imports = {"import json", "import sys", "from pathlib import Path", *export_format.script.imports.splitlines()}
    rules = []
    for module in (*modules, tree_answers) if has_tree else modules:
        source = inspect.getsource(module)
        nodes = [node for node in ast.parse(source).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        imports |= {ast.unparse(node) for node in nodes if not _is_own(node)}
        rules.append("\n".join(source.splitlines()[nodes[-1].end_lineno or 0 :]).strip())
    return _TEMPLATE.format(
        **export_format.script._asdict() | {"imports": "\n".join(sorted(imports, key=_import_order))},
        rules="\n\n\n".join(rules) + functions, read=textwrap.indent(read, "    "),
        resize="\n".join(f"    {line}" for line in resize), names=names, answer=answer,
    )  # fmt: skip


def _resize_image(preprocessing: Preprocessing, resampling: str) -> list[str]:
    """Lines that resize the Pillow image `image`."""
    rows, columns = preprocessing.shape
    if preprocessing.resize == "stretch":
        return [f"image = image.resize(({columns}, {rows}), {resampling})"]
    if preprocessing.resize == "crop":
        return [
            f"width = min(image.width, image.height * {columns} / {rows})",
            f"height = min(image.height, image.width * {rows} / {columns})",
            "left, top = (image.width - width) / 2, (image.height - height) / 2",
            "box = (left, top, left + width, top + height)",
            f"image = image.resize(({columns}, {rows}), {resampling}, box=box)",
        ]
    color = tuple(round(255 * channel) for channel in preprocessing.mean)
    return [
        f"scale = min({rows} / image.height, {columns} / image.width)",
        f"inner = image.resize([max(1, round(side * scale)) for side in image.size], {resampling})",
        f"image = Image.new('RGB', ({columns}, {rows}), {color})",
        f"image.paste(inner, (({columns} - inner.width) // 2, ({rows} - inner.height) // 2))",
    ]


def _resize_bands(preprocessing: Preprocessing) -> list[str]:
    """Lines that resize the array `image` of this `height` and `width`."""
    rows, columns = preprocessing.shape
    if preprocessing.resize == "stretch":
        return [f"image = image if (height, width) == ({rows}, {columns}) else resized(image, ({columns}, {rows}))"]
    if preprocessing.resize == "crop":
        return [
            f"inner = min(width, height * {columns} / {rows}), min(height, width * {rows} / {columns})",
            "left, top = (width - inner[0]) / 2, (height - inner[1]) / 2",
            f"image = resized(image, ({columns}, {rows}), (left, top, left + inner[0], top + inner[1]))",
        ]
    fill = [round(255 * channel) for channel in preprocessing.mean]
    return [
        f"scale = min({rows} / height, {columns} / width)",
        "inner = resized(image, [max(1, round(side * scale)) for side in (width, height)])",
        f"top, left = ({rows} - inner.shape[0]) // 2, ({columns} - inner.shape[1]) // 2",
        f"image = np.full({preprocessing.pixel_shape}, {fill}, np.uint8)",
        "image[top : top + inner.shape[0], left : left + inner.shape[1]] = inner",
    ]


def _is_own(node: ast.Import | ast.ImportFrom) -> bool:
    return isinstance(node, ast.ImportFrom) and str(node.module).startswith("regraft")


def _import_order(line: str) -> tuple[bool, bool, bool, str]:
    package = line.split()[1].partition(".")[0]
    return package != "__future__", package not in sys.stdlib_module_names, line.startswith("from"), line

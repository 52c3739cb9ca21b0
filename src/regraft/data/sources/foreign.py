"""Recognize data sets in formats that are not read, and say what to do."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

from regraft.text import join_truncated

#: What a file is, by its name in lower case.
_FORMATS = {
    r"\.mat": "MATLAB",
    r"\.tfrec(ords?)?|\.tfrecords?-\d+.*": "TFRecord",
    r"[.-]idx\d-ubyte(\.gz)?|-ubyte(\.gz)?": "MNIST's IDX format",
    r"\.(npz|npy|h5|hdf5|pkl|pickle)|/(data|test)_batch(_\d)?": "arrays",
    r"\.(coco\.)?json": "JSON, but no annotations of COCO or Label Studio, such as COCO's boxes of objects",
    r"\.xml": "XML, but no annotations of CVAT, such as VOC's boxes of objects",
    r"/labels/.*\.txt": "text, such as YOLO's boxes of objects",
    r"\.(zip|tar|tgz|tar\.gz|7z|rar)": "an archive, which is to be unpacked first",
    r"\.(csv|tsv|txt|xlsx?)": "a table or list",
}

CONVERT = (
    "Labels are read from the names of folders (<class>/*.jpg), or from a CSV with the columns path and label (and "
    "split): make class folders, or write such a CSV and pass it instead of the folder."
)


def describe_foreign(files: Iterable[str]) -> str:
    """A sentence on the formats of these files that are not read, or ""."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for file in files:
        if re.search("readme|licen[cs]e", file.lower()):
            continue
        kind = next((kind for suffix, kind in _FORMATS.items() if re.search(f"({suffix})$", f"/{file.lower()}")), None)
        if kind:
            found[kind].append(file)
    return f" It has {join_truncated(f'{names[0]} ({kind})' for kind, names in found.items())}." if found else ""


def names_with_labels(images: Iterable[str]) -> str:
    """A sentence on file names such as `cat.0.jpg`, which seem to begin with their labels, or ""."""
    stems = [PurePosixPath(image).stem for image in images]
    prefixes = [re.sub(r"[\W_]*\d+.*$", "", stem) for stem in stems]
    classes = sorted({prefix for prefix in prefixes if prefix})
    if all(prefixes) and 1 < len(classes) <= max(2, len(stems) // 2):
        return f" The names of the images begin with {join_truncated(classes)}: if these are the labels, use them."
    return ""

"""Say which files of a folder are not used as images, in a line for each file extension."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from posixpath import basename, splitext

from regraft.data.decode import EXTENSIONS, ImageSource, is_stream
from regraft.data.file_kinds import describe_head
from regraft.data.storage import is_junk
from regraft.text import pluralize

#: Advice by extension.
_ADVICE = {
    extension: advice
    for extensions, advice in (
        (".cr2 .cr3 .nef .nrw .arw .dng .orf .rw2 .raf .pef .srw .x3f .raw", "Export raw camera files as JPEG."),
        (".psd .psb .xcf .ai .svg .eps .pdf .jxr .exr .hdr .tga .dds .ico .pcx .fits", "Export them as PNG."),
        (".mp4 .mov .avi .mkv .webm .m4v .mpg .mpeg .wmv .3gp", "Extract the frames of videos."),
        (".ima .nii .nrrd .mha .mhd", "Export medical images as PNG."),
        (".npz .mat .h5 .hdf5 .pkl .pt .tfrecord", "Save each array as PNG or .npy, or use Dataset.from_arrays."),
        (".zip .tar .gz .tgz .7z .rar", "Unpack archives."),
        (".txt .csv .tsv .json .jsonl .xml .yaml .yml .md .html .md .log .py .ipynb .ds_store", ""),
    )
    for extension in extensions.split()
}
#: How a `split.csv` of a run or of `regraft split` begins, which is nothing to report.
_SPLIT = b"path,label,part,sha256"
#: Lines at most.
_LINES = 10


def may_be_image(name: str) -> bool:
    """Whether an ignored file may be meant as an image, and is not hidden, a table, a text or the like."""
    return _ADVICE.get(splitext(name)[1].lower()) != "" and not is_junk(basename(name), folder=False)


def describe_ignored(names: Iterable[str], source: Callable[[str], ImageSource]) -> list[str]:
    """Sentences about files that are no images by their extension; the most frequent extensions come first.

    `source` gives path or bytes of a file. One file of each unknown extension is opened to say what it is.
    """
    hidden: list[str] = []
    by_extension: dict[str, list[str]] = defaultdict(list)
    for name in names:
        extension = splitext(name)[1].lower()
        if is_junk(basename(name), folder=False):
            hidden.append(name)
        elif extension not in EXTENSIONS and not (basename(name) == "split.csv" and _is_split(name, source)):
            by_extension[extension if re.fullmatch(r"\.(?=.*[^\W\d_])[\w~-]{1,12}", extension) else ""].append(name)
    order = sorted(by_extension.items(), key=lambda item: (-len(item[1]), item[0]))
    lines = [
        f"{extension or 'No extension'}: {_ignored(files)}{_advise(extension, files[0], source)}"
        for extension, files in order[:_LINES]
    ]
    if rest := order[_LINES:]:
        lines.append(f"{pluralize(len(rest), 'more extension')}: {_ignored([f for _, files in rest for f in files])}.")
    if hidden:
        lines.append(f"Hidden and system files: {_ignored(hidden)}.")
    return lines


def _is_split(name: str, source: Callable[[str], ImageSource]) -> bool:
    try:
        content = source(name)
        if isinstance(content, Path) and not is_stream(content):
            with content.open("rb") as file:
                content = file.read(len(_SPLIT))
    except (OSError, ValueError):
        return False
    return isinstance(content, bytes) and content.startswith(_SPLIT)


def _ignored(files: list[str]) -> str:
    return f"{pluralize(len(files), 'file')} ignored, such as {files[0]}"


def _advise(extension: str, name: str, source: Callable[[str], ImageSource]) -> str:
    if (advice := _ADVICE.get(extension)) is not None:
        return f". {advice}".rstrip()
    try:
        content = source(name)
        if not isinstance(content, Path | bytes) or (isinstance(content, Path) and is_stream(content)):
            return "."
        what, is_image = describe_head(content)
    except (OSError, ValueError):
        return "."
    rename = ". Rename such files with the extension of their format" if is_image else ""
    return f", which is {what}{rename}." if what else "."

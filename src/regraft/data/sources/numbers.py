"""Labels that are numbers, such as ages or grades, from any source of labeled images: a table, or names of folders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from regraft.data.labels import number_text
from regraft.data.samples import PARTS
from regraft.data.sources.open import DataSource
from regraft.data.sources.table import MAX_ERRORS
from regraft.data.strings import Names
from regraft.errors import DataError
from regraft.text import join_truncated, pluralize

#: Numbers in a column of labels that classification takes for names of classes without asking.
_FEW = 20


def with_numbers(source: DataSource, name: str) -> DataSource:
    """The same images, whose labels are read as numbers; raises `DataError` with the images whose label is none."""
    layout = source.layout
    labels = layout.found.labels
    texts, errors = dict[int, str](), list[str]()
    codes, first_rows = np.unique(labels.codes, return_index=True)
    for code, row in zip(codes.tolist(), first_rows.tolist(), strict=True):
        try:
            texts[code] = number_text(labels.names[code] if code >= 0 else "")
        except ValueError as error:
            errors.append(f"{layout.found.paths[row]}: {error}")
    if errors:
        lines = join_truncated(errors, "\n  ", shown=MAX_ERRORS)
        several = pluralize(len(errors), "label is no number", "labels are no numbers")
        raise DataError(f"{name}: {several}, and task = regression expects one for each image:\n  {lines}")
    numbers = Names.of(texts[code] for code in labels.codes.tolist())
    pairs = np.unique(np.stack([layout.found.parts.astype(np.int32), numbers.codes], axis=1), axis=0).tolist()
    classes = {(None if part < 0 else PARTS[part], str(numbers.names[code])) for part, code in pairs}
    found = layout.found.with_labels(numbers)
    return replace(source, layout=replace(layout, found=found, classes=classes, task="regression"))


def refuse_unasked_numbers(source: DataSource, name: str) -> None:
    """Raise `DataError` where labels look like measured numbers, and nobody has said that they are names of classes.

    They do if all are numbers, also with a decimal comma, and most are different or have decimals. Whole numbers from 1
    to 5 are classes.
    """
    labels = source.layout.found.labels
    texts, count = labels.used(), len(labels)
    if len(texts) <= _FEW:
        return
    try:
        are_whole = all("." not in number_text(text.replace(",", ".", 1)) for text in texts)
    except ValueError:
        return
    if len(texts) > count / 2 or not are_whole:
        raise DataError(
            f"{name}: the labels are {len(texts):,} different numbers of {pluralize(count, 'image')}. To predict a "
            'number, pass --task regression (task="regression" in Python); if each number is the name of a class, '
            "--task classification."
        )

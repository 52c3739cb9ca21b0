"""Leave out the files that findings name, without changing a file on disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from regraft.data.dataset import PARTS, Dataset, Sample
from regraft.data.quality.findings import Finding
from regraft.errors import UsageError


@dataclass(frozen=True)
class Dropped:
    """A file that is left out: kind of the finding and reason; the label of an unreadable file is empty."""

    path: str
    label: str
    kind: str
    reason: str


#: Kinds of finding that people must look at: without them, the difficult and rare images would leave the test set too,
#: and images that can be read once an extra is installed.
_TO_LOOK_AT = frozenset({"label_error", "outlier", "outside_train", "missing_extra"})


def proposed(findings: Sequence[Finding]) -> list[str]:
    """Kinds of finding to drop unseen: no likely wrong labels or numbers, and no rare ones, which may be right."""
    chosen = (f.kind for f in findings if f.files and f.severity != "info" and f.kind not in _TO_LOOK_AT)
    return list(dict.fromkeys(chosen))


def clean(dataset: Dataset, findings: Sequence[Finding], drop: Sequence[str]) -> tuple[Dataset, list[Dropped]]:
    """Leave out the files of some kinds of finding; returns the remaining data set, and the dropped files by path.

    Of exact and near duplicates, the image with the most pixels is kept. Of a leak, the images in test are kept, else
    those in val. Of a conflict and of every other finding, nothing is kept. Raises `UsageError` if no finding of a kind
    names files.
    """
    kinds = {finding.kind for finding in findings if finding.files}
    if unknown := [kind for kind in drop if kind not in kinds]:
        available = f"Findings with files: {', '.join(sorted(kinds))}." if kinds else "No finding names files."
        raise UsageError(f"--drop {','.join(unknown)}: no such finding names files here. {available}")
    sample_of = {sample.path: sample for sample in dataset.samples}
    dropped: dict[str, Dropped] = {}
    for finding in sorted((f for f in findings if f.kind in drop), key=lambda f: drop.index(f.kind)):
        for files, detail in zip(finding.files, finding.details, strict=True):
            # A file that is dropped already cannot be the one that is kept.
            left = [path for path in files if path not in dropped]
            kept = _kept(finding.kind, [sample_of[path] for path in left if path in sample_of])
            reason = detail + (f"; {', '.join(sorted(kept))} kept" if kept else "")
            for path in left:
                if path not in kept:
                    label = sample_of[path].label if path in sample_of else ""
                    dropped[path] = Dropped(path, label, finding.kind, reason)
    rest = dataset.with_samples([s for s in dataset.samples if s.path not in dropped])
    return rest, [dropped[path] for path in sorted(dropped)]


def _kept(kind: str, samples: Sequence[Sample]) -> set[str]:
    if samples and kind in ("duplicates", "near_duplicates"):
        return {min(samples, key=lambda sample: (-math.prod(sample.size or (0, 0)), sample.path)).path}
    if samples and kind == "leak":
        part = max((s.part for s in samples if s.part), key=PARTS.index)
        return {s.path for s in samples if s.part == part}
    return set()

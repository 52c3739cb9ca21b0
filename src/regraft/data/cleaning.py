"""Leave out what findings name, without touching a file.

Enters: a data set, its findings, and the kinds of finding that matter. Leaves: the samples that stay, and every
one that does not, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from regraft.data.audit import Finding
from regraft.data.dataset import PARTS, Dataset, Sample
from regraft.errors import UsageError

#: Of a set that shows the same, these leave one image; the others leave none of what they name.
_ONE_STAYS = ("duplicates", "near_duplicates")


@dataclass(frozen=True)
class Dropped:
    """A file that is left out.

    Attributes:
        path: Of the file.
        label: Its class; empty for a file that cannot be read.
        kind: Of the finding.
        reason: In a few words.
    """

    path: str
    label: str
    kind: str
    reason: str


def proposed(findings: Sequence[Finding]) -> list[str]:
    """Kinds of finding whose files may be left out unseen.

    Labels that a model doubts are for people: dropped, they would take what is hard out of the test too.
    """
    chosen = (f.kind for f in findings if f.files and f.severity != "info" and f.kind != "label_error")
    return list(dict.fromkeys(chosen))


def clean(dataset: Dataset, findings: Sequence[Finding], drop: Sequence[str]) -> tuple[Dataset, list[Dropped]]:
    """Leave out what some findings name.

    Of exact and near duplicates the image with the most pixels stays. Of a picture that is in several parts what is in
    test stays, else what is in val. Of a picture with several labels, and of all other findings, nothing stays.

    Args:
        dataset: That the findings are of.
        findings: From `audit`, `inspect`.
        drop: Kinds of finding.

    Returns:
        The data set without them, and what was left out, by path.

    Raises:
        UsageError: A kind that names no files, or that was not found.
    """
    kinds = {finding.kind for finding in findings if finding.files}
    if unknown := [kind for kind in drop if kind not in kinds]:
        raise UsageError(
            f"--drop {','.join(unknown)}: no such finding names files here. "
            + (f"Found: {', '.join(sorted(kinds))}." if kinds else "None was found.")
        )
    sample_of = {sample.path: sample for sample in dataset.samples}
    reasons: dict[str, Dropped] = {}
    for kind in drop:
        for finding in findings:
            if finding.kind == kind:
                for files, detail in zip(finding.files, finding.details, strict=True):
                    # What another finding has taken already does not stand for the rest.
                    left = [path for path in files if path not in reasons]
                    staying = _staying(kind, [sample_of[path] for path in left if path in sample_of])
                    for path in left:
                        if path not in staying:
                            label = sample_of[path].label if path in sample_of else ""
                            stays = f"; {', '.join(sorted(staying))} stays" if staying else ""
                            reasons[path] = Dropped(path, label, kind, detail + stays)
    kept = dataset.with_samples([s for s in dataset.samples if s.path not in reasons])
    return kept, [reasons[path] for path in sorted(reasons)]


def _staying(kind: str, samples: Sequence[Sample]) -> set[str]:
    """Paths of a set that stay."""
    if not samples:
        return set()
    if kind in _ONE_STAYS:

        def size(sample: Sample) -> int:
            width, height = sample.size or (0, 0)
            return width * height

        return {min(samples, key=lambda sample: (-size(sample), sample.path)).path}
    if kind == "leak":
        part = max((s.part for s in samples if s.part), key=PARTS.index)
        return {s.path for s in samples if s.part == part}
    return set()

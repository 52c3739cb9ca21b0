"""List the problems of a scanned data set, each with its severity, its files and advice; no image is read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from posixpath import splitext
from typing import Any

import numpy as np

from regraft.data.bands import has_bands
from regraft.data.dataset import PARTS, Dataset, Pair, Sample
from regraft.data.decode import FORMAT_EXTENSIONS
from regraft.data.ignored import may_be_image
from regraft.data.labels import Task, classes_in
from regraft.data.quality.description import describe, has_several
from regraft.data.quality.finding import SEVERITIES as SEVERITIES
from regraft.data.quality.finding import Finding as Finding
from regraft.data.quality.finding import Severity as Severity
from regraft.data.quality.numbers import by_range, contradict, number_findings, robust_deviation
from regraft.data.quality.shortcuts import Shortcut, measure_shortcuts
from regraft.data.sources.folders import similar_names
from regraft.data.split import inseparable_set_counts, inseparable_set_ids
from regraft.errors import ImageErrorCode
from regraft.notebook_repr import NotebookRepr
from regraft.text import join_truncated, pluralize

#: An image whose shorter side has fewer pixels is tiny.
TINY = 16
#: An image whose sides have a larger ratio is extreme.
EXTREME = 4.0
#: Color modes of Pillow that are not reported.
_COMMON_MODES = frozenset({"RGB", "RGBA", "L", "LA", "P"})
_EXTENSIONS = {**FORMAT_EXTENSIONS, "MPO": FORMAT_EXTENSIONS["JPEG"]}
#: A class with fewer separable images than this number of folds cannot be cross-validated.
_FOLDS = 5
#: Ratio of the largest to the smallest class from which on classes count as imbalanced.
_IMBALANCE = 10.0
#: Correlation of features from which on a backbone confirms a near duplicate.
CONFIRMED = 0.3
#: Strength from which on a shortcut is an error, and a warning; visible properties may be legitimate.
_STRONG, _NOTABLE, _NOTABLE_VISIBLE = 0.8, 0.3, 0.5
#: Highest probability that a shortcut is chance.
_CHANCE = 0.05


def audit(dataset: Dataset) -> list[Finding]:
    """Run every check that needs no model on a data set, with or without parts; the most severe findings come first."""
    ids = inseparable_set_ids(dataset.samples)
    advice = "Correct the folders or the manifest; a model cannot be trained on this data."
    structure = (Finding("structure", "error", problem, advice) for problem in dataset.class_problems)
    files = (*_unreadable(dataset), *_unused(dataset), *_duplicates(dataset.samples, dataset.task))
    labeled = by_range(dataset).samples if dataset.task == "regression" else dataset.samples
    what = "range of the numbers" if dataset.task == "regression" else "label"
    shortcuts = _shortcuts(measure_shortcuts(labeled, ids, dataset.classes if has_several(dataset) else ()), what)
    return by_severity(
        [
            *structure,
            *files,
            *(number_findings(dataset) if dataset.task == "regression" else _classes(dataset)),
            *_without_label(dataset),
            *_file_properties(dataset.samples),
            *shortcuts,
        ]
    )


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings, the most severe first; equals keep their order."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


#: Kind of finding and predicate, singular and plural, of unreadable files by their code.
_UNREADABLE_KINDS = {
    ImageErrorCode.EMPTY: ("empty", "has no bytes", "have no bytes"),
    ImageErrorCode.TOO_LARGE: ("bomb", "is too large to be decoded safely", "are too large to be decoded safely"),
    ImageErrorCode.TRUNCATED: ("truncated", "is truncated", "are truncated"),
    ImageErrorCode.UNREADABLE: ("unreadable", "cannot be read", "cannot be read"),
    ImageErrorCode.MISSING_EXTRA: ("missing_extra", "needs an extra to be read", "need an extra to be read"),
}
#: Kinds of finding of files that are in no data set, because they cannot be read.
UNREADABLE_KINDS = tuple(kind for kind, *_ in _UNREADABLE_KINDS.values())


def _unreadable(dataset: Dataset) -> Iterator[Finding]:
    for code, (kind, singular, plural) in _UNREADABLE_KINDS.items():
        if files := [file for file in dataset.bad if file.code == code]:
            yield Finding(
                kind, "error",
                f"{pluralize(len(files), f'image {singular}', f'images {plural}')}.",
                "They are left out without it."
                if code == ImageErrorCode.MISSING_EXTRA
                else "A file that cannot be read is left out: replace or delete it.",
                tuple((file.path,) for file in files), tuple(file.reason for file in files),
            )  # fmt: skip


def _unused(dataset: Dataset) -> Iterator[Finding]:
    if files := [name for name in dataset.ignored if may_be_image(name)]:
        yield Finding(
            "unused", "warning",
            f"{pluralize(len(files), 'file is', 'files are')} not used: no images by extension, or in no class.",
            "If they are images of a class, convert, rename or move them; the notes say what they are.",
            tuple((name,) for name in files), tuple(splitext(name)[1] or "no extension" for name in files),
        )  # fmt: skip


#: What a picture has whose copies are labeled differently.
_CONFLICTS: Mapping[Task, str] = {
    "classification": "more than one label", "multilabel": "different labels", "regression": "different numbers",
}  # fmt: skip


def _duplicates(samples: Sequence[Sample], task: Task) -> Iterator[Finding]:
    by_picture: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_picture[sample.near_duplicate_group or sample.sha256].append(sample)
    pictures = [picture for picture in by_picture.values() if len(picture) > 1]
    leaks = [picture for picture in pictures if len({s.part for s in picture}) > 1]
    conflicts = [picture for picture in pictures if len({s.label for s in picture}) > 1]
    if task == "regression":
        deviation = robust_deviation(np.array([float(s.label) for s in samples], np.float64))
        conflicts = [picture for picture in conflicts if contradict(picture, deviation)]
    exact = [picture for picture in pictures if len({s.sha256 for s in picture}) == 1]
    near = [picture for picture in pictures if len({s.sha256 for s in picture}) > 1]
    extra_exact, extra_near = (sum(map(len, chosen)) - len(chosen) for chosen in (exact, near))
    checks: tuple[tuple[str, Severity, Sequence[Sequence[Sample]], str, str], ...] = (
        ("leak", "error", leaks,
         f"{pluralize(len(leaks), 'picture is', 'pictures are')} in more than one part, as exact or near duplicates: "
         "metrics on val and test are too optimistic.",
         "Keep each in one part: split again (regraft split), or drop the copies (regraft clean --drop leak)."),
        ("conflict", "error", conflicts,
         f"{pluralize(len(conflicts), 'picture has', 'pictures have')} "
         f"{_CONFLICTS[task]}: copies or near duplicates are labeled differently.",
         "Look at them and keep the right label, or drop all of them (regraft clean --drop conflict)."),
        ("duplicates", "warning", exact,
         f"{pluralize(extra_exact, 'image is an exact copy', 'images are exact copies')} of others.",
         "They count more than once. A split keeps copies in one part; regraft clean --drop duplicates keeps one of "
         "each."),
        ("near_duplicates", "warning", near,
         f"{pluralize(extra_near, 'image is a near duplicate', 'images are near duplicates')} of others: re-encoded, "
         "resized, cropped, brighter, mirrored, or taken twice.",
         "A split keeps them in one part; regraft clean --drop near_duplicates keeps one of each."),
    )  # fmt: skip
    for kind, severity, chosen, title, advice in checks:
        if chosen:
            files = tuple(tuple(s.path for s in picture) for picture in chosen)
            yield Finding(
                kind, severity, title, advice, files, tuple(_describe_copies(picture, task) for picture in chosen)
            )
    parts_of: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        if sample.group is not None and sample.part is not None:
            parts_of[sample.group].add(sample.part)
    if divided := sorted(group for group, parts in parts_of.items() if len(parts) > 1):
        yield Finding(
            "divided_group", "error",
            f"{pluralize(len(divided), 'group is', 'groups are')} in more than one part: {join_truncated(divided)}.",
            "Keep each group in one part: split again (regraft split).",
        )  # fmt: skip


def _describe_copies(samples: Sequence[Sample], task: Task) -> str:
    labels = sorted({s.label for s in samples})
    if task == "regression":
        labels = [f"{number:.6g}" for number in sorted(map(float, labels))]
    parts = [part for part in PARTS if part in {s.part for s in samples}]
    description = ["the same file" if len({s.sha256 for s in samples}) == 1 else "nearly the same picture"]
    if len(labels) > 1:
        description.append(f"labels: {', '.join(labels)}")
    if parts:
        description.append(", ".join(parts))
    return "; ".join(description)


def with_features(finding: Finding, pairs: Sequence[Pair]) -> Finding:
    """Add each set's smallest `features` of `pairs` to its detail, and to the title how many sets look different."""
    set_of = {path: number for number, files in enumerate(finding.files) if len(files) > 1 for path in files}
    smallest: dict[int, float] = {}
    for pair in pairs:
        number = set_of.get(pair.first)
        if number is not None and number == set_of.get(pair.second) and pair.features is not None:
            smallest[number] = min(pair.features, smallest.get(number, 1.0))
    if not smallest:
        return finding
    details = list(finding.details)
    for number, similarity in smallest.items():
        details[number] += f"; feature similarity {similarity:.2f}{'' if similarity >= CONFIRMED else ', please check'}"
    different = sum(similarity < CONFIRMED for similarity in smallest.values())
    looks = f"To the backbone {pluralize(different, 'set looks', 'sets look')} different."
    verdict = looks if different else "The backbone's features confirm it."
    return replace(finding, title=f"{finding.title} {verdict}", details=tuple(details))


def _classes(dataset: Dataset) -> Iterator[Finding]:
    for names in similar_names(dataset.classes):
        yield Finding(
            "class_names", "error",
            f"Classes differ only in spelling: {', '.join(map(repr, names))}.",
            "If they are one class, give them one name.",
        )  # fmt: skip
    counts = dataset.counts()
    if empty := [name for name, count in counts.items() if not count]:
        yield Finding(
            "empty_class", "error",
            f"{pluralize(len(empty), 'class has', 'classes have')} no readable image: {join_truncated(empty)}.",
            "Add images or remove the class.",
        )  # fmt: skip
    for part in PARTS:
        present = classes_in([s.label for s in dataset.samples if s.part == part], dataset.task)
        missing = [name for name in dataset.classes if name not in present and counts[name]]
        if present and missing:
            yield Finding(
                "missing_in_part", "warning",
                f"{pluralize(len(missing), 'class has', 'classes have')} no image in {part}: "
                f"{join_truncated(missing)}.",
                f"They have no metrics on {part}. Move some images, or split again.",
            )  # fmt: skip
    separable = inseparable_set_counts(dataset.samples, dataset.task)
    if few := [name for name in dataset.classes if 0 < separable[name] < _FOLDS]:
        too_few = any(separable[name] < len(PARTS) for name in few)
        yield Finding(
            "few_images", "error" if too_few else "warning",
            f"{pluralize(len(few), 'class has', 'classes have')} fewer separable images than the {_FOLDS} folds of a "
            f"cross-validation{', or even than train, val and test' if too_few else ''}: "
            f"{join_truncated(f'{name} ({separable[name]})' for name in few)}.",
            "Add images; until then the metrics of these classes mean little.",
        )  # fmt: skip
    filled = {name: count for name, count in counts.items() if count}
    most, least = max(filled, key=counts.__getitem__, default=""), min(filled, key=counts.__getitem__, default="")
    if filled and counts[most] / counts[least] >= _IMBALANCE:
        yield Finding(
            "imbalance", "warning",
            f"{most!r} has {counts[most] / counts[least]:.0f} times as many images as {least!r} "
            f"({counts[most]:,} and {counts[least]:,}).",
            "Compare macro-F1 and per-class recall; --set training.class_weights=balanced weights the classes equally.",
        )  # fmt: skip


def _without_label(dataset: Dataset) -> Iterator[Finding]:
    """Images with none of several labels: right if they show none of the classes, and wrong if nobody labeled them."""
    none = [s.path for s in dataset.samples if not s.label]
    if has_several(dataset) and none:
        yield Finding(
            "no_label", "info",
            f"{pluralize(len(none), 'image has', 'images have')} no label.",
            "They count as images that show none of the classes. Leave out those that nobody has labeled.",
            tuple((path,) for path in none), ("no label",) * len(none),
        )  # fmt: skip


def _file_properties(samples: Sequence[Sample]) -> Iterator[Finding]:
    known = [(sample, sample.image_stats) for sample in samples if sample.image_stats is not None]
    if not known:
        return
    small = max(TINY, float(np.median([min(stats.width, stats.height) for _, stats in known])) / 8)
    sharp = float(np.median([stats.sharpness for _, stats in known]))
    checks: tuple[tuple[str, Severity, str, str, Mapping[str, str]], ...] = (
        ("wrong_extension", "warning", "{} not in the format of the file extension.",
         "They are read all the same. Rename them, since other programs may refuse them.",
         {s.path: f"{f.format} as {splitext(s.path)[1] or 'no extension'}" for s, f in known
          if splitext(s.path)[1].lower() not in _EXTENSIONS.get(f.format, ())
          and not s.path.endswith(_EXTENSIONS.get(f.format, ()))}),
        ("animated", "warning", "{} of several frames or pages; only the first is used.",
         "Check that the first one shows what the label says, or save each as an image of its own.",
         {s.path: f"{f.format}, {f.frames} frames" for s, f in known if f.frames > 1}),
        ("tiny", "warning", f"{{}} tiny (shorter side below {small:.0f} pixels).",
         "They show little detail. Find the originals, or drop them.",
         {s.path: f"{f.width} x {f.height}" for s, f in known if f.width < small or f.height < small}),
        ("extreme_aspect", "warning", f"{{}} more than {EXTREME:g} times as long as wide.",
         "They are squeezed into a square. Crop them, or train with --set model.resize=pad.",
         {s.path: f"{f.width} x {f.height}" for s, f in known
          if f.width > EXTREME * f.height or f.height > EXTREME * f.width}),
        ("blank", "warning", "{} of nearly one color.",
         "Check whether they show anything.",
         {s.path: f"contrast {f.contrast:.3f}" for s, f in known if f.contrast < 0.01}),
        ("blurred", "info", "{} much less sharp than the others.",
         "Check whether they are out of focus or enlarged.",
         {s.path: f"sharpness {f.sharpness:.4f}, median {sharp:.4f}" for s, f in known
          if f.contrast >= 0.01 and f.sharpness < sharp / 5}),
        ("odd_mode", "info", "{} in an unusual color mode, and converted to RGB.",
         "Check one of them among the sample images.",
         {s.path: f"{f.mode}, values up to {f.largest:,.6g}" if f.largest else f.mode for s, f in known
          if f.mode not in _COMMON_MODES and not has_bands(f.mode)}),
        ("rotated", "info", "{} rotated by EXIF, in training and prediction alike.",
         "Nothing, if other programs apply EXIF orientation too.",
         {s.path: f"orientation {f.orientation}" for s, f in known if f.orientation != 1}),
    )  # fmt: skip
    for kind, severity, title, advice, details in checks:
        if details:
            title = title.format(pluralize(len(details), "image is", "images are"))
            yield Finding(kind, severity, title, advice, tuple((path,) for path in details), tuple(details.values()))


def _shortcuts(shortcuts: Sequence[Shortcut], what: str) -> Iterator[Finding]:
    for shortcut in shortcuts:
        if shortcut.p >= _CHANCE or shortcut.strength < (_NOTABLE_VISIBLE if shortcut.visible else _NOTABLE):
            continue
        of = f" {shortcut.label!r}" if shortcut.label else ""
        yield Finding(
            "shortcut", "error" if shortcut.strength >= _STRONG and not shortcut.visible else "warning",
            f"The {what}{of} can be guessed from the {shortcut.name} alone with {100 * shortcut.accuracy:.0f} % "
            f"balanced accuracy; chance is {100 * shortcut.chance:.0f} %.",
            "A network may learn this shortcut instead of what the image shows. Make the property the same for all "
            "labels, or test on images where it is.",
            details=shortcut.examples,
        )  # fmt: skip


@dataclass(frozen=True)
class Inspection(NotebookRepr):
    """A data set and its findings.

    Attributes:
        dataset: The data set, with its parts if it has any.
        findings: Findings, the most severe first.
        notes: Checks that were skipped, and why, in sentences.
    """

    dataset: Dataset
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def worst(self) -> Severity | None:
        """The highest severity among the findings."""
        return self.findings[0].severity if self.findings else None

    def __repr__(self) -> str:
        counts = Counter(finding.severity for finding in self.findings)
        return f"Inspection({self.dataset!r}, " + ", ".join(f"{counts[s]} {s}" for s in SEVERITIES) + ")"

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values; paths are relative to the data set's root."""
        return {
            "data": str(self.dataset.root),
            "statistics": describe(self.dataset),
            "findings": [asdict(finding) for finding in self.findings],
            "pairs": [asdict(pair) for pair in self.dataset.pairs],
            "notes": [*self.dataset.notes, *self.notes],
            "ignored": list(self.dataset.ignored),
        }

"""Choose and read the pictures on the page of an inspection; their number and size are bounded whatever the data."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from PIL import Image

from regraft.data.dataset import Dataset, Sample
from regraft.data.quality.findings import Finding, Inspection
from regraft.errors import RegraftError
from regraft.report.thumbnails import THUMBNAIL_SIZE, data_uri
from regraft.resources import usable_cpus

#: Side of a mean image, in pixels.
MEAN_SIZE = 96
#: Most sets of images, or single images, per finding; images per set; thumbnails in all findings together.
MAX_SETS, MAX_SINGLES, PER_SET, IN_FINDINGS = 12, 24, 8, 480
#: Most findings; most classes with samples, half of them the largest, half the smallest.
MAX_FINDINGS, MAX_CLASSES = 200, 40
#: Samples per class; most images in a mean, per class and in all classes; most pixels to decode for all means.
SAMPLES, _PER_MEAN, _IN_MEANS, _MEAN_PIXELS = 8, 64, 400, 200_000_000


@dataclass(frozen=True)
class Entry:
    """A file of a finding, or a set of files that belong together; `shown` are the files with a picture."""

    paths: tuple[str, ...]
    detail: str
    shown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """A finding, its entries with pictures, and its entries without."""

    finding: Finding
    pictured: tuple[Entry, ...]
    named: tuple[Entry, ...]


def choose_evidence(inspection: Inspection) -> list[Evidence]:
    """Choose the entries of each finding that are shown in pictures."""
    needed = {path for finding in inspection.findings for paths in finding.files for path in paths}
    samples = {s.path: s for s in inspection.dataset.samples if s.path in needed}
    budget = IN_FINDINGS
    evidence = []
    for finding in inspection.findings[:MAX_FINDINGS]:
        limit = MAX_SETS if any(len(paths) > 1 for paths in finding.files) else MAX_SINGLES
        pictured: list[Entry] = []
        named: list[Entry] = []
        for paths, detail in zip_longest(finding.files, finding.details[: len(finding.files)], fillvalue=""):
            assert not isinstance(paths, str)
            shown: list[Sample] = []
            if len(pictured) < limit:
                shown = _alternate([samples[path] for path in paths if path in samples])[: min(PER_SET, budget)]
            budget -= len(shown)
            entry = Entry(paths, detail, tuple(s.path for s in shown))
            (pictured if shown else named).append(entry)
        evidence.append(Evidence(finding, tuple(pictured), tuple(named)))
    return evidence


def _alternate(samples: Sequence[Sample]) -> list[Sample]:
    """Reorder samples so that the first ones have as many different labels and parts as possible."""
    seen: Counter[tuple[str, str | None]] = Counter()
    ranks = []
    for sample in samples:
        ranks.append(seen[sample.label, sample.part])
        seen[sample.label, sample.part] += 1
    return [samples[i] for i in sorted(range(len(samples)), key=ranks.__getitem__)]


@dataclass(frozen=True)
class ClassSamples:
    """Images per class, and the samples drawn from each class that is shown."""

    counts: Mapping[str, int]
    largest: tuple[str, ...]  # all classes, where they are few
    others: tuple[str, ...]  # those between
    smallest: tuple[str, ...]  # as many as `largest`, where there are more classes
    drawn: Mapping[str, tuple[Sample, ...]]

    @classmethod
    def draw(cls, dataset: Dataset, seed: int) -> ClassSamples:
        """Draw samples at random, few enough that the mean images take little time."""
        counts = dataset.counts()
        order = sorted(counts, key=lambda name: -counts[name])
        is_cut = len(order) > MAX_CLASSES
        largest = order[: MAX_CLASSES // 2] if is_cut else order
        smallest = order[-MAX_CLASSES // 2 :] if is_cut else []
        shown = [*largest, *smallest]
        members: dict[str, list[Sample]] = {name: [] for name in shown}
        for sample in dataset.samples:
            for name in dataset.names_of(sample):
                if name in members:
                    members[name].append(sample)
        pixels = float(np.median([s.size[0] * s.size[1] for s in dataset.samples if s.size] or [1]))
        classes = max(1, len(shown))
        per_class = min(_PER_MEAN, _IN_MEANS // classes, int(_MEAN_PIXELS / pixels / classes))
        drawn = {}
        for number, name in enumerate(shown):
            count = min(len(members[name]), max(SAMPLES, per_class))
            permutation = np.random.default_rng((seed, number)).permutation(len(members[name]))
            drawn[name] = tuple(members[name][i] for i in permutation[:count])
        others = order[len(largest) : len(order) - len(smallest)]
        return cls(counts, tuple(largest), tuple(others), tuple(smallest), drawn)


@dataclass(frozen=True)
class Pictures:
    """Thumbnails by path, and each class's mean image with the number of images in it, as data URIs."""

    thumbnails: Mapping[str, str]
    means: Mapping[str, tuple[str, int]]


def read_pictures(
    dataset: Dataset, wanted: Iterable[str], classes: ClassSamples, progress: Callable[[int, int], None] | None
) -> Pictures:
    """Read, once, every image that is shown or is part of a mean image."""
    shown = {*wanted, *(s.path for samples in classes.drawn.values() for s in samples[:SAMPLES])}
    drawn_for: defaultdict[str, list[str]] = defaultdict(list)
    for name, samples in classes.drawn.items():
        for sample in samples:
            drawn_for[sample.path].append(name)
    averaged = drawn_for.keys()
    jobs = [s for s in dataset.samples if s.path in shown or s.path in averaged]

    decode = dataset.picture_decoder()

    def read(sample: Sample) -> tuple[str | None, np.ndarray | None]:
        try:
            pixels = decode(dataset.source(sample), at_least=THUMBNAIL_SIZE)
        except (RegraftError, OSError, ValueError):  # the file changed or is gone
            return None, None
        image = Image.fromarray(pixels)
        small = None
        if sample.path in averaged:
            small = np.asarray(image.resize((MEAN_SIZE, MEAN_SIZE), Image.Resampling.BILINEAR, reducing_gap=2.0))
        return data_uri(image) if sample.path in shown else None, small

    thumbnails: dict[str, str] = {}
    sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((MEAN_SIZE, MEAN_SIZE, 3)))
    numbers: Counter[str] = Counter()
    with ThreadPoolExecutor(usable_cpus()) as pool:
        try:
            for done, (sample, (thumbnail, small)) in enumerate(zip(jobs, pool.map(read, jobs), strict=True), 1):
                if thumbnail:
                    thumbnails[sample.path] = thumbnail
                if small is not None:
                    for name in drawn_for[sample.path]:
                        sums[name] += small
                        numbers[name] += 1
                if progress:
                    progress(done, len(jobs))
        except BaseException:  # Ctrl-C: do not read the waiting images
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    means = {
        name: (data_uri(Image.fromarray(np.rint(total / numbers[name]).astype(np.uint8))), numbers[name])
        for name, total in sums.items()
    }
    return Pictures(thumbnails, means)

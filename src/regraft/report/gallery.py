"""Which pictures a page of an inspection shows.

Enters: an `Inspection`. Leaves: what is shown of each finding and class, chosen before any image is read, and small
JPEGs as data URIs. Their number and size are bounded whatever the data.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from PIL import Image

from regraft.data.audit import Finding, Inspection
from regraft.data.dataset import Dataset, Sample
from regraft.data.decode import decode_image
from regraft.errors import RegraftError
from regraft.report.thumbs import THUMB, data_uri

#: Side of a mean image, in pixels.
MEAN = 96
#: Sets, or single images, that a finding shows; images that a set shows; thumbnails in all findings together.
SETS, SINGLES, OF_A_SET, IN_FINDINGS = 12, 24, 8, 480
#: Findings that are shown; classes, the largest and the smallest.
FINDINGS, CLASSES = 200, 40
#: Images of a class that are shown, and from which its mean is made; the latter also in all, and in pixels to decode.
SAMPLES, MEAN_OF, MEAN_OF_ALL, MEAN_PIXELS = 8, 64, 400, 200_000_000


@dataclass(frozen=True)
class Entry:
    """One entry of a finding: a file, or a set of files; `shown` are those of them that get a picture."""

    paths: tuple[str, ...]
    detail: str
    shown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """A finding, its entries with pictures, and those without."""

    finding: Finding
    pictured: tuple[Entry, ...]
    named: tuple[Entry, ...]


def gather(inspection: Inspection) -> list[Evidence]:
    """Which entries of which findings are shown in pictures, while there is room."""
    needed = {path for finding in inspection.findings for paths in finding.files for path in paths}
    samples = {s.path: s for s in inspection.dataset.samples if s.path in needed}
    room = IN_FINDINGS
    found = []
    for finding in inspection.findings[:FINDINGS]:
        limit = SETS if any(len(paths) > 1 for paths in finding.files) else SINGLES
        pictured: list[Entry] = []
        named: list[Entry] = []
        for paths, detail in zip_longest(finding.files, finding.details[: len(finding.files)], fillvalue=""):
            assert not isinstance(paths, str)
            shown: list[Sample] = []
            if len(pictured) < limit:
                shown = _varied([samples[path] for path in paths if path in samples])[: min(OF_A_SET, room)]
            room -= len(shown)
            entry = Entry(paths, detail, tuple(s.path for s in shown))
            (pictured if shown else named).append(entry)
        found.append(Evidence(finding, tuple(pictured), tuple(named)))
    return found


def _varied(samples: Sequence[Sample]) -> list[Sample]:
    """The same samples; the first ones have as many different labels and parts as there are."""
    turn: Counter[tuple[str, str | None]] = Counter()
    turns = []
    for sample in samples:
        turns.append(turn[sample.label, sample.part])
        turn[sample.label, sample.part] += 1
    return [samples[i] for i in sorted(range(len(samples)), key=turns.__getitem__)]


@dataclass(frozen=True)
class Classes:
    """Class names, the largest class first, which of them are shown, and the samples drawn of each that is."""

    counts: Mapping[str, int]
    largest: tuple[str, ...]
    others: tuple[str, ...]
    smallest: tuple[str, ...]
    drawn: Mapping[str, tuple[Sample, ...]]

    @classmethod
    def of(cls, dataset: Dataset, seed: int) -> Classes:
        """Draw so many of each class that means can be made of them in good time."""
        counts = dataset.counts()
        order = sorted(counts, key=lambda name: -counts[name])
        some = len(order) > CLASSES
        largest = order[: CLASSES // 2] if some else order
        smallest = order[-CLASSES // 2 :] if some else []
        shown = [*largest, *smallest]
        members: dict[str, list[Sample]] = {name: [] for name in shown}
        for sample in dataset.samples:
            if sample.label in members:
                members[sample.label].append(sample)
        pixels = float(np.median([s.size[0] * s.size[1] for s in dataset.samples if s.size] or [1]))
        each = min(MEAN_OF, MEAN_OF_ALL // max(1, len(shown)), int(MEAN_PIXELS / pixels / max(1, len(shown))))
        drawn = {}
        for number, name in enumerate(shown):
            those = members[name]
            count = min(len(those), max(SAMPLES, each))
            order_drawn = np.random.default_rng((seed, number)).permutation(len(those))
            drawn[name] = tuple(those[i] for i in order_drawn[:count])
        return cls(counts, tuple(largest), tuple(order[len(largest) : len(order) - len(smallest)]), tuple(smallest),
                   drawn)  # fmt: skip


@dataclass(frozen=True)
class Pictures:
    """Thumbnails by path, and the mean of each class with the number of images in it; as data URIs.

    An image that could not be read is not in it.
    """

    thumbs: Mapping[str, str]
    means: Mapping[str, tuple[str, int]]


def read_pictures(
    dataset: Dataset, wanted: Iterable[str], classes: Classes, progress: Callable[[int, int], None] | None
) -> Pictures:
    """Read every image that is to be seen, or to go into a mean."""
    thumbs = {*wanted, *(s.path for those in classes.drawn.values() for s in those[:SAMPLES])}
    averaged = {s.path for those in classes.drawn.values() for s in those}
    jobs = [s for s in dataset.samples if s.path in thumbs or s.path in averaged]

    def work(sample: Sample) -> tuple[str | None, np.ndarray | None]:
        try:
            pixels = decode_image(dataset.source(sample), max_pixels=dataset.max_pixels, at_least=THUMB)
        except (RegraftError, OSError, ValueError):  # the file has changed, or is gone
            return None, None
        image = Image.fromarray(pixels)
        small = None
        if sample.path in averaged:
            small = np.asarray(image.resize((MEAN, MEAN), Image.Resampling.BILINEAR, reducing_gap=2.0))
        return data_uri(image) if sample.path in thumbs else None, small

    made: dict[str, str] = {}
    sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((MEAN, MEAN, 3)))
    numbers: Counter[str] = Counter()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            for done, (sample, (thumb, small)) in enumerate(zip(jobs, pool.map(work, jobs), strict=True), 1):
                if thumb:
                    made[sample.path] = thumb
                if small is not None:
                    sums[sample.label] += small
                    numbers[sample.label] += 1
                if progress:
                    progress(done, len(jobs))
        except BaseException:  # Ctrl-C: the images that wait are not read
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    means = {
        name: (data_uri(Image.fromarray(np.rint(total / numbers[name]).astype(np.uint8))), numbers[name])
        for name, total in sums.items()
    }
    return Pictures(made, means)

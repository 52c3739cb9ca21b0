"""Tasks, predictions and studies on a cluster of two nodes."""

from __future__ import annotations

import csv
import io
import os
import re
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import cluster_tasks
import numpy as np
import pytest
import torch
from PIL import Image

import regraft
from regraft.cluster import ray_executor
from regraft.cluster.connection import connect
from regraft.cluster.executor import Cluster, Task, open_executor
from regraft.cluster.ray_executor import RayExecutor
from regraft.config import load_config
from regraft.errors import ClusterError, UsageError
from regraft.runs.cluster_train import train_on_cluster
from regraft.runs.prediction_parts.parts import Listing, Parts, PartsOptions, predict_parts
from regraft.runs.train import train_from
from regraft.training.callbacks import NullReporter


@pytest.fixture(scope="module", autouse=True)
def _connected(_two_nodes: Any) -> Iterator[None]:
    """One connection for all tests: each takes seconds, and a new connection's processes start anew."""
    with connect(_two_nodes.address):
        yield


@pytest.fixture(scope="module", autouse=True)
def _end_processes(_connected: None) -> Iterator[Callable[[], None]]:
    """A study takes the processes that the one before has started, each of which imports PyTorch; this ends them."""
    executors: list[RayExecutor] = []
    close = RayExecutor.close

    def open_again(ray: Any, cluster: Cluster) -> RayExecutor:
        executors.append(RayExecutor(ray, cluster))  # which refuses what no node has
        return executors[0]

    def end() -> None:
        for executor in executors:
            close(executor)
        executors.clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_executor, "RayExecutor", open_again)
        patch.setattr(RayExecutor, "close", lambda _: None)
        yield end
    end()


@pytest.fixture
def new_processes(_end_processes: Callable[[], None]) -> None:
    """Processes of earlier tests are ended before the test."""
    _end_processes()


@pytest.fixture
def cluster(two_nodes: Any) -> Cluster:
    return Cluster(two_nodes.address, cpus=1)


@pytest.fixture(scope="module")
def fast_settings(fast_settings: dict[str, Any], small_network: dict[str, Any]) -> dict[str, Any]:
    """With a network that is small to train in three processes at once."""
    return fast_settings | small_network


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads as a task on the cluster: sums in another order differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def images(tmp_path: Path) -> Sequence[Path]:
    """Three hundred JPEG files."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), np.uint8)
    files = [tmp_path / "images" / f"{number:03d}.jpg" for number in range(len(pixels))]
    files[0].parent.mkdir()
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file)
    return files


class Unreadable:
    """A value that the other side cannot read."""

    def __reduce__(self) -> Any:
        return cluster_tasks.unreadable, ()


def ends(process: int) -> bool:
    """Whether a process ends within some seconds."""
    with suppress(ProcessLookupError):
        for _ in range(100):
            os.kill(process, 0)
            time.sleep(0.1)
        return False
    return True


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


def one_after_another(tasks: list[Task]) -> Callable[[], Task | None]:
    waiting = iter(tasks)
    return lambda: next(waiting, None)


class Recorder(NullReporter):
    """Records epochs, and raises at one of them."""

    def __init__(self, bad: int = -1) -> None:
        self.epochs: list[int] = []
        self.bad = bad

    def on_epoch_end(self, row: Any) -> None:
        self.epochs.append(row)
        if row == self.bad:
            raise UsageError("pruned")


def test_tasks_run_on_both_nodes_at_once(two_nodes, tmp_path) -> None:
    tasks = [Task(str(i), cluster_tasks.meet, (tmp_path, i), Recorder()) for i in range(2)]
    with open_executor(Cluster(two_nodes.address, cpus=1)) as executor:
        assert executor.slots == 2
        ended = [future.result() for _, future in executor.run(one_after_another(tasks))]
    assert len(set(ended)) == 2


def test_tasks_report_here(two_nodes) -> None:
    reporter = Recorder(bad=3)
    tasks = [Task(str(i), cluster_tasks.square, (i,), reporter) for i in range(6)]
    tasks.append(Task("fails", cluster_tasks.fail, (), reporter))
    with open_executor(Cluster(two_nodes.address, cpus=1)) as executor:
        ended = {task.name: future for task, future in executor.run(one_after_another(tasks))}
    squares = {name: future.result() for name, future in ended.items() if not future.exception()}
    assert {name: value for name, (value, _) in squares.items()} == {str(i): i**2 for i in range(6) if i != 3}
    assert {threads for _, threads in squares.values()} == {1}
    assert sorted(reporter.epochs) == list(range(6))
    with pytest.raises(UsageError, match="pruned"):
        ended["3"].result()
    assert "night.png: too dark" in str(ended["fails"].exception())


def test_an_argument_that_cannot_be_sent_fails_its_task_alone(two_nodes) -> None:
    tasks = [
        Task(name, cluster_tasks.square, (value,), Recorder()) for name, value in (("no", Unreadable()), ("yes", 3))
    ]
    with open_executor(Cluster(two_nodes.address, cpus=1)) as executor:
        ended = {task.name: future for task, future in executor.run(one_after_another(tasks))}
    assert "cannot be read" in str(ended["no"].exception())
    assert ended["yes"].result()[0] == 9


def test_folds_on_a_cluster_give_the_same_numbers(cluster, squares_folder, fast_settings, one_thread) -> None:
    config = load_config(overrides=fast_settings)
    here = regraft.cross_validate(squares_folder, 2, repeats=2, config=config)
    there = regraft.cross_validate(squares_folder, 2, repeats=2, config=config, cluster=cluster)
    assert np.array_equal(here.predictions.probabilities, there.predictions.probabilities)
    assert np.array_equal(here.accuracies, there.accuracies)


def test_a_search_with_several_trials_at_once_can_be_resumed(cluster, squares_folder, tmp_path, fast_settings) -> None:
    config = load_config(overrides=fast_settings)

    class Interrupted(NullReporter):
        def on_message(self, text: str) -> None:
            if text.startswith("Trial "):
                raise KeyboardInterrupt

    options = {"finalists": 0, "train": False, "cluster": cluster, "out": tmp_path / "out"}
    first = regraft.tune(squares_folder, trials=2, config=config, reporter=Interrupted(), **options)
    assert first.stopped == "interrupted"
    again = regraft.tune(squares_folder, trials=2, config=config, **options)
    assert sorted(record.number for record in again.trials) == [0, 1]
    assert {record.state for record in again.trials} <= {"complete", "pruned"}


def test_models_are_compared_on_a_cluster(cluster, squares_folder, tmp_path, monkeypatch) -> None:
    from regraft.studies.compare import trainer as module

    monkeypatch.setattr(module, "BASELINE_EPOCHS", 1)
    settings = ["model.image_size=32", "training.finetune_epochs=1", "data.val=0.25", "data.test=0.25"]
    config = load_config(None, settings)
    there = regraft.compare(
        squares_folder, baselines=["ann", "cnn"], config=config, out=tmp_path / "a", cluster=cluster
    )
    losses = {model.name: model.test_loss for model in there.models}
    here = train_from(squares_folder, module._config_for(config, "ann", 0.0), tmp_path / "ann")
    assert losses.keys() == {"ann", "cnn"}
    assert losses["ann"] == here.metrics["test"]["loss"]


def test_an_evaluation_on_a_cluster_is_the_same(cluster, squares_run, squares_folder, tmp_path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for label in ("blue", "green", "red"):  # two WebDataset shards; a task opens those of its images
        for number, file in enumerate(sorted((squares_folder / label).glob("0*.png"))):
            with tarfile.open(shards / f"{number % 2}.tar", "a") as archive:
                archive.add(file, f"{label}{number}.png")
                content = label.encode()
                info = tarfile.TarInfo(f"{label}{number}.cls")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    here = regraft.evaluate(squares_run, shards)
    there = regraft.evaluate(squares_run, shards, out=tmp_path / "out", cluster=cluster)
    assert there.to_json() == here.to_json()


def test_leaving_the_loop_ends_the_tasks_that_run(two_nodes, tmp_path) -> None:
    class Leaver(NullReporter):
        def on_progress(self, *_: Any) -> None:
            raise KeyboardInterrupt

    tasks = [Task("endless", cluster_tasks.wait, (tmp_path / "pid",), Leaver())]
    with open_executor(Cluster(two_nodes.address, cpus=1)) as executor:
        with pytest.raises(KeyboardInterrupt):
            list(executor.run(one_after_another(tasks)))
        process = int((tmp_path / "pid").read_text())
        assert ends(process)


def test_a_task_that_kills_its_process_fails_after_some_tries(two_nodes, tmp_path) -> None:
    tasks = [Task("deadly", cluster_tasks.die, (tmp_path / "deaths",), NullReporter())]
    with open_executor(Cluster(two_nodes.address, cpus=1)) as executor:
        ((_, future),) = executor.run(one_after_another(tasks))
    with pytest.raises(ClusterError, match="deadly: its process died 3 times"):
        future.result()
    assert (tmp_path / "deaths").read_text().splitlines() == ["died"] * 3


def test_more_than_a_node_has_is_refused(two_nodes) -> None:
    with (
        pytest.raises(UsageError, match=r"A task gets 8 CPUs and 0 GPUs.*The largest node has 1 and 0"),
        open_executor(Cluster(two_nodes.address, cpus=8)),
    ):
        pass


@pytest.mark.usefixtures("new_processes")
def test_other_versions_are_refused(two_nodes, monkeypatch) -> None:
    monkeypatch.setattr(ray_executor, "describe_versions", lambda: {"Python": "3.11", "regraft": "9", "torch": "2"})
    tasks = [Task("square", cluster_tasks.square, (1,), NullReporter())]
    with (
        pytest.raises(ClusterError, match=r"The node .* has .*regraft [0-9.]+ instead of 9"),
        open_executor(Cluster(two_nodes.address, cpus=1)) as executor,
    ):
        list(executor.run(one_after_another(tasks)))


@pytest.mark.usefixtures("new_processes")
def test_a_training_whose_process_is_killed_gives_the_same_numbers(
    two_nodes, squares_folder, tmp_path, fast_settings
) -> None:
    config = load_config(overrides=fast_settings | {"training.finetune_epochs": 8})

    def train(name: str) -> dict[str, Any]:
        run = train_on_cluster(
            squares_folder, config, tmp_path / name, processes=2, cluster=Cluster(two_nodes.address, cpus=1)
        )
        return {"test": run.metrics["test"], "losses": [row["train_loss"] for row in run.history]}

    whole = train("whole")
    log = tmp_path / "killed" / "logs" / "rank-0.log"
    with ThreadPoolExecutor(1) as thread:
        training = thread.submit(train, "killed")
        while not (log.is_file() and "finetune: epoch 1" in log.read_text(encoding="utf-8")):
            assert not training.done(), training.exception()
            time.sleep(0.1)
        other = re.findall(r"starts, with the number (\d+)", log.with_name("rank-1.log").read_text(encoding="utf-8"))
        os.kill(int(other[-1]), signal.SIGKILL)
        again = training.result()
    starts = (tmp_path / "killed" / "logs" / "rank-0.log").read_text(encoding="utf-8").count("Process 0 of 2 starts")
    assert starts == 2
    assert len(whole["losses"]) == 8
    assert again == whole


def test_a_dead_node_costs_its_tasks_in_flight_alone(two_nodes, tmp_path) -> None:
    class Killer(NullReporter):
        def __init__(self) -> None:
            self.killed = threading.Event()

        def on_epoch_end(self, row: Any) -> None:
            if row == 5 and not self.killed.is_set():
                self.killed.set()
                two_nodes.kill_second()

    tasks = [Task(str(i), cluster_tasks.square, (i,), Killer()) for i in range(12)]
    with open_executor(Cluster(two_nodes.address, cpus=1)) as executor:
        results = [future.result()[0] for _, future in executor.run(one_after_another(tasks))]
    assert sorted(results) == [i**2 for i in range(12)]


def test_trials_on_a_cluster_give_the_same_numbers_one_at_a_time(
    one_node, squares_folder, tmp_path, fast_settings, one_thread
) -> None:
    config = load_config(overrides=fast_settings)
    runs = {}
    for name, cluster in (("here", None), ("there", Cluster(one_node.address, cpus=1))):
        runs[name] = regraft.tune(
            squares_folder, trials=2, finalists=0, config=config, out=tmp_path / name, train=False, cluster=cluster
        )
    here, there = ([(r.number, r.params, r.state, r.loss) for r in run.trials] for run in runs.values())
    assert here == there
    assert runs["here"].best.config == runs["there"].best.config


def test_a_dead_node_costs_no_prediction(two_nodes, squares_run, images, tmp_path) -> None:
    class Killer(NullReporter):
        def on_progress(self, name: str, done: int, total: int, detail: str = "") -> None:
            if done and two_nodes.second is not None:
                two_nodes.kill_second()

    def predict(reporter: NullReporter) -> Parts:
        return predict_parts(
            squares_run.path, Listing.of_files(images), tmp_path / "out", PartsOptions("csv", part_size=10),
            described={}, cluster=Cluster(two_nodes.address, cpus=1), reporter=reporter,
        )  # fmt: skip

    first = predict(Killer())
    assert two_nodes.second is None
    rows = [row for part in first.parts for row in rows_of(part.file)]
    assert [row["path"] for row in rows] == [str(image) for image in images]
    labels = [prediction.label for prediction in regraft.predict(squares_run, images[:40])]
    assert [row["label"] for row in rows[:40]] == labels
    assert first.computed == len(first.parts) > 7

    first.parts[3].file.unlink()
    os.utime(images[-1], (1, 1))
    again = predict(NullReporter())
    assert again.computed == 2, "the part that is missing, and that of the image that has changed"
    assert again.images == len(images) == sum(len(rows_of(part.file)) for part in again.parts)
    assert {file.name for file in (tmp_path / "out").glob("part-*")} == {part.file.name for part in again.parts}

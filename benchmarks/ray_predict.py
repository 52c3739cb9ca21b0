"""Predictions of many files on a Ray cluster of two nodes on this machine, each with one CPU for tasks.

    python benchmarks/ray_predict.py FOLDER [--images 20000] [--part-size 500] [--record]

FOLDER gets JPEGs of 64 pixels and a run (once), and the predictions. Measured are the same part files computed in this
process, on the cluster, on the cluster with one node killed after a third of the images, and by Ray Data with a pool
of actors that do the same. The memory is the largest sum of the proportional set sizes of the processes of Ray, workers
included. Each way must give one row for each image; Ray Data is given up after `--limit` seconds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import evidence
import numpy as np
import pyarrow.parquet
from PIL import Image

from regraft.cluster.connection import import_ray
from regraft.cluster.executor import Cluster
from regraft.runs.prediction_parts.parts import Listing, PartsOptions, predict_parts
from regraft.training.callbacks import NullReporter

#: Bytes of each node's object store.
_STORE = 100 * 2**20


def make_images(folder: Path, count: int) -> list[Path]:
    """Noisy squares of 64 pixels in ten colors, a folder for each color."""
    rng, files = np.random.default_rng(0), []
    for number in range(count):
        files.append(folder / f"{number % 10}" / f"{number:06d}.jpg")
        if not files[-1].exists():
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            color = np.random.default_rng(number % 10).integers(0, 256, 3)
            pixels = np.clip(color + rng.normal(0, 40, (64, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(files[-1], quality=90)
    return files


def make_run(folder: Path, files: list[Path]) -> Path:
    """A head on the default backbone, of 300 of the images."""
    data, run = folder / "train", folder / "run"
    if not run.is_dir():
        for file in files[:300]:
            target = data / file.parent.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        command = [sys.executable, "-m", "regraft", "train", str(data), "--out", str(run), "--epochs", "0"]
        subprocess.run([*command, "--image-size", "64"], check=True, stdout=sys.stderr)
    return run


class TwoNodes:
    """A head and a second node, each with these CPUs for tasks."""

    def __init__(self, cpus: int) -> None:
        import_ray()
        from ray.cluster_utils import Cluster as Nodes

        limits = {"num_cpus": cpus, "object_store_memory": _STORE, "include_dashboard": False}
        self.nodes = Nodes(initialize_head=True, head_node_args=limits)
        self.second = self.nodes.add_node(**limits)
        self.address = str(self.nodes.address)

    def kill_second(self) -> None:
        """Kill the second node with all that runs on it."""
        if self.second is not None:
            node, self.second = self.second, None
            self.nodes.remove_node(node, allow_graceful=False)


class PeakMemory:
    """The largest sum of the proportional set sizes, in bytes, of all processes below this one."""

    def __init__(self) -> None:
        self.peak, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            parents = {}
            for status in Path("/proc").glob("[0-9]*/stat"):
                with suppress(OSError):
                    parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
            below = {os.getpid()}
            while new := {child for child, parent in parents.items() if parent in below} - below:
                below |= new
            self.peak = max(self.peak, sum(map(_proportional_size, below - {os.getpid()})))


def _proportional_size(process: int) -> int:
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return 0


@contextmanager
def two_nodes(cpus: int = 1) -> Iterator[TwoNodes]:
    """The cluster for one measurement."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nodes = TwoNodes(cpus)
    try:
        yield nodes
    finally:
        nodes.nodes.shutdown()


class RayDataPredictor:
    """What an actor of Ray Data calls for each block of paths."""

    def __init__(self, run: str) -> None:
        from regraft.runs.run import Run

        self.model = Run(run).classifier

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Paths become rows."""
        from regraft.models.inference import predict_images

        predictions = list(predict_images(self.model, [str(path) for path in batch["path"]]))
        return {"path": batch["path"], "label": [p.label for p in predictions],
                "probabilities": np.stack([p.probabilities for p in predictions])}  # fmt: skip


def predict_by_ray_data(address: str, run: Path, files: list[Path], out: Path, part_size: int) -> None:
    """The same with Ray Data: blocks of paths, a pool of two actors, Parquet files; in a process of its own."""
    import ray

    ray.init(address=address, log_to_driver=False)
    dataset = ray.data.from_items([{"path": str(file)} for file in files], override_num_blocks=len(files) // part_size)
    pool = ray.data.ActorPoolStrategy(size=2)
    dataset.map_batches(
        RayDataPredictor, batch_size=part_size, compute=pool, num_cpus=1, fn_constructor_kwargs={"run": str(run)}
    ).write_parquet(str(out))


def rows_in(folder: Path) -> list[str]:
    """The paths in all Parquet files of a folder, sorted."""
    files = sorted(folder.rglob("*.parquet"))
    return sorted(path for file in files for path in pyarrow.parquet.read_table(file)["path"].to_pylist())


class KillAfterAThird(NullReporter):
    """Kills a node when a third of the images is done."""

    def __init__(self, nodes: TwoNodes) -> None:
        self.nodes = nodes

    def on_progress(self, name: str, done: int, total: int, detail: str = "") -> None:
        """Look how far it is."""
        if done > total / 3:
            self.nodes.kill_second()


def main() -> None:
    """Measure each way once and print it."""
    record = evidence.take_flag()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--part-size", type=int, default=500)
    parser.add_argument("--limit", type=float, default=600)
    parser.add_argument("--ray-data", metavar="ADDRESS", help=argparse.SUPPRESS)  # the process of that measurement
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    files = make_images(folder / "images", arguments.images)
    run = make_run(folder, files)
    if arguments.ray_data:
        predict_by_ray_data(arguments.ray_data, run, files, folder / "out", arguments.part_size)
        return
    os.environ.update(OMP_NUM_THREADS="1", REGRAFT_THREADS="1")
    seconds: dict[str, list[float]] = {}
    facts: dict[str, dict[str, Any]] = {}

    def measure(label: str, work: Callable[[], Any]) -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)
        started = time.perf_counter()
        with PeakMemory() as memory:
            problem = work()
        seconds[label] = [time.perf_counter() - started]
        found, wanted = rows_in(folder / "out"), sorted(map(str, files))
        facts[label] = {"rows": len(found), "complete": found == wanted, "peak_gb": round(memory.peak / 1e9, 2)}
        print(f"{label}: {seconds[label][0]:.0f} s, {facts[label]} {problem if isinstance(problem, str) else ''}")

    def parts(cluster: Cluster | None, reporter: Any = None) -> None:
        options = PartsOptions(part_size=arguments.part_size)
        listing = Listing.of_files(files)
        predict_parts(run, listing, folder / "out", options, described={}, cluster=cluster, reporter=reporter)

    def ray_data(address: str) -> str:
        command = [sys.executable, __file__, str(folder), "--images", str(len(files)), "--ray-data", address]
        try:
            done = subprocess.run(command, timeout=arguments.limit, check=False, stderr=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return f"given up after {arguments.limit:.0f} s"
        return "" if done.returncode == 0 else f"failed with exit code {done.returncode}"

    measure("this process", lambda: parts(None))
    with two_nodes() as nodes:
        measure("cluster", lambda: parts(Cluster(nodes.address, cpus=1)))
    with two_nodes() as nodes:
        measure(
            "cluster, a node killed",
            lambda: parts(Cluster(nodes.address, cpus=1), KillAfterAThird(nodes)),
        )
    for cpus in (1, 2):
        with two_nodes(cpus) as nodes:
            measure(f"Ray Data, nodes of {cpus} CPU{'s' * (cpus > 1)}", lambda: ray_data(nodes.address))
    if record:
        evidence.save("ray_predict", seconds, unit="s", title="Predictions on two nodes", facts=facts)


if __name__ == "__main__":
    main()

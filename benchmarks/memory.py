"""Peak memory of the demo, of a head alone on many images, and of a server under load.

    python benchmarks/memory.py FOLDER [--parts demo,head,server] [--images 50000] [--size 64] [--seconds 20] [--record]

Each is a command in a separate process with an empty cache. Prints the largest resident memory of that process in GB;
what of it was anonymous and what were pages of files, such as PyTorch's libraries, which other processes share; and the
largest memory of it and the processes that it starts together, in which a page that n processes share counts as a n-th
for each (PSS). FOLDER gets what is generated, once: JPEGs for the head, and the demo's run, which the server serves to
24 clients that send its images. Needs the extras `demo` and `serve`.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from evidence import save, take_flag
from PIL import Image

#: Seconds between two looks at the memory, and the number of clients of the server.
_INTERVAL, _CLIENTS = 0.1, 24


def make(folder: Path, classes: int, number: int, side: int = 240) -> None:
    """Write a square JPEG: smooth blobs in the colors of its class, and noise."""
    rng = np.random.default_rng(number)
    label = number % classes
    colors = np.random.default_rng(label).integers(0, 256, (4, 4, 3))
    small = np.clip(colors + rng.normal(0, 40, colors.shape), 0, 255).astype(np.uint8)
    file = folder / f"class_{label:03d}" / f"{number:06d}.jpg"
    if not file.exists():
        Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(file, quality=85)


@dataclass
class Peak:
    """Largest memory of a process in bytes, with its parts at that moment, and of all processes together."""

    resident: int = 0
    anonymous: int = 0
    files: int = 0
    together: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0

    def look(self, process: psutil.Process) -> None:
        """Look at the memory of a process and of those that it has started."""
        try:
            resident = _resident(process.pid)
            if resident["VmRSS"] > self.anonymous + self.files:
                self.anonymous, self.files = resident["RssAnon"], resident["RssFile"] + resident["RssShmem"]
            self.resident = max(self.resident, resident["VmHWM"])
            times = process.cpu_times()
            self.processor_seconds = times.user + times.system + times.children_user + times.children_system
            self.together = max(self.together, sum(map(_proportional, [process, *process.children(recursive=True)])))
        except (psutil.Error, OSError, KeyError):  # it has ended
            return

    def describe(self) -> dict[str, float]:
        """The parts, in GB, and seconds."""
        parts = {"anonymous": self.anonymous, "of_files": self.files, "all_processes": self.together}
        gigabytes = {name: round(value / 1e9, 2) for name, value in parts.items()}
        return gigabytes | {"seconds": round(self.seconds), "processor_seconds": round(self.processor_seconds)}


def _resident(pid: int) -> dict[str, int]:
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return {name: 1024 * int(size) for name, size in re.findall(r"^(VmHWM|VmRSS|Rss\w+):\s*(\d+) kB", text, re.M)}


def _proportional(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def measure(words: list[str], cache: Path, during: Callable[[subprocess.Popen[bytes]], None] | None = None) -> Peak:
    """Run a command of regraft with an empty cache; `during` is called with its process, and ends it."""
    shutil.rmtree(cache, ignore_errors=True)
    peak, started, ended = Peak(), time.perf_counter(), threading.Event()
    command = [sys.executable, "-m", "regraft", *words]
    with subprocess.Popen(command, env=os.environ | {"REGRAFT_CACHE": str(cache)}, stdout=sys.stderr) as process:
        tree = psutil.Process(process.pid)

        def watch() -> None:
            while not ended.wait(_INTERVAL):
                peak.look(tree)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            if during is not None:
                during(process)
            code = process.wait()
        finally:
            ended.set()
            watcher.join()
    shutil.rmtree(cache, ignore_errors=True)
    if code:
        raise SystemExit(f"regraft {words[0]} ended with exit code {code}")
    peak.seconds = time.perf_counter() - started
    return peak


def demo(folder: Path) -> Peak:
    """`regraft demo`."""
    shutil.rmtree(folder / "demo", ignore_errors=True)
    return measure(["demo", "--out", str(folder / "demo")], folder / "cache")


def head(folder: Path, images: int, classes: int, size: int) -> Peak:
    """`regraft train --epochs 0` on so many images."""
    data, out = folder / f"images-{images}-{size}", folder / "head"
    for label in range(classes):
        (data / f"class_{label:03d}").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(make, data, classes, side=size), range(images), chunksize=500))
    shutil.rmtree(out, ignore_errors=True)
    words = ["train", str(data), "--out", str(out), "--finetune-epochs", "0", "--image-size", str(size)]
    return measure([*words, "--set", "data.val=0.02", "--set", "data.test=0.02"], folder / "cache")


def server(folder: Path, seconds: float, port: int) -> Peak:
    """`regraft serve` with the demo's run, under load."""
    if not (folder / "demo" / "demo.csv").is_file():
        demo(folder)
    with (folder / "demo" / "demo.csv").open(encoding="utf-8", newline="") as file:
        bodies = [Path(row["path"]).read_bytes() for row in itertools.islice(csv.DictReader(file), 40)]
    address = f"http://127.0.0.1:{port}"

    def during(process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"{address}/v2/health/ready").close()
                break
            except OSError:  # not yet
                time.sleep(_INTERVAL)
        counts = [0] * _CLIENTS
        clients = [
            threading.Thread(target=_send, args=(address, bodies, time.monotonic() + seconds, counts, number))
            for number in range(_CLIENTS)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        print(f"the server answered {sum(counts) / seconds:.0f} images/s", file=sys.stderr)
        process.send_signal(signal.SIGTERM)

    return measure(["serve", str(folder / "demo"), "--port", str(port)], folder / "cache", during)


def _send(address: str, bodies: list[bytes], until: float, counts: list[int], number: int) -> None:
    kind = {"Content-Type": "application/octet-stream"}
    for body in itertools.cycle(bodies[number % len(bodies) :] + bodies[: number % len(bodies)]):
        if time.monotonic() > until:
            return
        with urllib.request.urlopen(urllib.request.Request(f"{address}/predict", body, kind)) as answer:
            answer.read()
        counts[number] += 1


def main() -> None:
    """Measure, and print or record the results."""
    record = take_flag()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", default="demo,head,server")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--size", type=int, default=64, help="side of the head's images in pixels")
    parser.add_argument("--seconds", type=float, default=20, help="of load on the server")
    parser.add_argument("--port", type=int, default=8765)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    label = f"head alone, {arguments.images:,} images of {arguments.size} pixels"
    parts: dict[str, tuple[str, Callable[[], Peak]]] = {
        "demo": ("regraft demo", lambda: demo(folder)),
        "head": (label, lambda: head(folder, arguments.images, arguments.classes, arguments.size)),
        "server": ("regraft serve", lambda: server(folder, arguments.seconds, arguments.port)),
    }
    sizes: dict[str, list[float]] = {}
    facts: dict[str, dict[str, float]] = {}
    for name in arguments.parts.split(","):
        title, work = parts[name]
        peak = work()
        sizes[title], facts[title] = [peak.resident / 1e9], peak.describe()
        print(f"{title}: {peak.resident / 1e9:.2f} GB {json.dumps(facts[title])}", flush=True)
    if record:
        save("memory", sizes, unit="GB", title="Peak memory", facts=facts)


if __name__ == "__main__":
    main()

"""Time and memory of scanning and splitting many images: no Python object for each image may stay in memory.

    python benchmarks/many_rows.py FOLDER [--files 20000 200000] [--rows 2000000] [--train] [--record]

FOLDER gets JPEG files of 64 x 64 pixels, and for the rows hard links to the first 20,000 of them under other names, in
folders of 10,000 (once; two million links take no space but their names). Each number of files and rows has a CSV
manifest. For each, a process with an empty cache scans, finds near duplicates, splits, and writes `split.csv`; then the
manifest is scanned again, with all in the cache. `--train` also trains a head on the files and predicts. Prints, for
each step, its seconds and the largest memory of the process and its worker processes together (the sum of their
resident memory, in which shared pages count several times).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from evidence import save, take_flag
from PIL import Image

_CLASSES, _IN_FOLDER, _LINKED = 10, 10_000, 20_000
_INTERVAL = 0.05


def make_file(folder: Path, number: int) -> None:
    """Write a JPEG of 64 x 64 pixels: a square or a disk in the color of its class, before smooth blobs."""
    file = folder / name_of(number)
    if file.exists():
        return
    rng, label = np.random.default_rng(number), number % _CLASSES
    blobs = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
    pixels = np.asarray(blobs).astype(np.int16)
    y, x = np.mgrid[:64, :64]
    (top, left), radius = rng.integers(16, 48, 2), 6 + label
    inside = (
        (x - left) ** 2 + (y - top) ** 2 < radius**2 if label % 2 else np.maximum(abs(x - left), abs(y - top)) < radius
    )
    pixels[inside] = pixels[inside] // 3 + np.array([25 * label, 255 - 25 * label, 70 * label % 255]) * 2 // 3
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=70)


def name_of(number: int) -> str:
    """The path of a file or link, relative to its folder."""
    return f"{number // _IN_FOLDER:03d}/{number:07d}.jpg"


def make(folder: Path, count: int, linked: Path | None = None) -> Path:
    """Make `count` files, or links to the files in `linked`; returns their manifest."""
    manifest = folder.with_suffix(".csv")
    if manifest.exists():
        return manifest
    for number in range(0, count, _IN_FOLDER):
        (folder / name_of(number)).parent.mkdir(parents=True, exist_ok=True)
    if linked is None:
        with ProcessPoolExecutor() as pool:
            for _ in pool.map(partial(make_file, folder), range(count), chunksize=500):
                pass
    else:
        for number in range(count):
            link = folder / name_of(number)
            if not link.exists():
                os.link(linked / name_of(number % _LINKED), link)
    partial_manifest = manifest.with_suffix(".partial")
    with partial_manifest.open("w", encoding="utf-8") as file:
        file.write("path,label\n")
        file.writelines(f"{folder.name}/{name_of(number)},class {number % _CLASSES}\n" for number in range(count))
    partial_manifest.replace(manifest)
    return manifest


def work(manifest: Path, cache: Path, *, train: bool) -> None:
    """What the measured process does; each line that it prints names the step that begins."""
    import regraft
    from regraft.cache import Cache
    from regraft.data.split_file import write_split

    def step(name: str) -> None:
        print(json.dumps({"step": name}), flush=True)

    store = Cache(cache, limit=100 * 10**9)
    step("scan")
    regraft.scan(manifest, cache=store, near_duplicates=False)
    step("near duplicates")
    dataset = regraft.scan(manifest, cache=store)
    step("split")
    split = regraft.split(dataset)
    step("write")
    write_split(cache / "split.csv", split)
    step("scan again")
    del dataset, split, store
    dataset = regraft.scan(manifest, cache=Cache(cache, limit=100 * 10**9))
    print(json.dumps({"images": len(dataset), "notes": dataset.notes}), file=sys.stderr)
    if train:
        step("build and split")
        split = regraft.split(dataset)
        del dataset
        model = regraft.build("efficientnet_lite0", classes=split.classes, image_size=64)
        step("train a head")
        regraft.train(model, split, out=cache / "run", finetune_epochs=0)


def measure(command: list[str], environment: dict[str, str], what: str) -> dict[str, tuple[float, float]]:
    """Run a command: seconds and peak memory in 10^9 bytes of each step, which are printed as it ends."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    tree, peak, ended = psutil.Process(process.pid), [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(_INTERVAL):
            total = 0
            for one in [tree, *_children(tree)]:
                try:
                    total += one.memory_info().rss
                except psutil.Error:
                    continue
            peak[0] = max(peak[0], total / 1e9)

    watcher = threading.Thread(target=watch)
    watcher.start()
    steps: dict[str, tuple[float, float]] = {}
    name, began = "start", time.perf_counter()

    def end(following: str) -> None:
        nonlocal name, began
        steps[name] = (time.perf_counter() - began, peak[0])
        print(f"{f'{what}: {name}':45} {steps[name][0]:8.1f} s {steps[name][1]:6.2f} GB", flush=True)
        name, began, peak[0] = following, time.perf_counter(), 0.0

    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            end(json.loads(line)["step"])
    code = process.wait()
    end("")
    ended.set()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)} failed: {code}")
    return steps


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def main() -> None:
    """Make the files, measure, and print or record the results."""
    if len(sys.argv) > 3 and sys.argv[1] == "--work":
        work(Path(sys.argv[2]), Path(sys.argv[3]), train="--train" in sys.argv)
        return
    record = take_flag()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, nargs="*", default=[20_000, 200_000])
    parser.add_argument("--rows", type=int, nargs="*", default=[2_000_000])
    parser.add_argument("--train", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(f"{count:,} files", make(folder / f"files-{count}", count)) for count in arguments.files]
    if arguments.rows:
        make(folder / f"files-{_LINKED}", _LINKED)
    jobs += [
        (f"{count:,} rows", make(folder / f"rows-{count}", count, folder / f"files-{_LINKED}"))
        for count in arguments.rows
    ]
    seconds: dict[str, list[float]] = {}
    facts: dict[str, dict[str, float]] = {}
    for what, manifest in jobs:
        cache = Path(tempfile.mkdtemp(prefix="cache-", dir=folder))
        command = [sys.executable, str(Path(__file__)), "--work", str(manifest), str(cache)]
        command += ["--train"] if arguments.train and what.endswith("files") else []
        try:
            steps = measure(command, {**os.environ, "REGRAFT_CACHE": str(cache)}, what)
        finally:
            shutil.rmtree(cache, ignore_errors=True)
        for step, (duration, peak) in steps.items():
            label = f"{what}: {step}"
            seconds[label], facts[label] = [duration], {"peak_gb": round(peak, 3)}
    if record:
        save("many_rows", seconds, unit="s", title="Many rows", facts=facts)


if __name__ == "__main__":
    main()

"""Time and memory of `regraft inspect --no-labels` for many files, with an empty and with a filled cache.

    python benchmarks/inspect_speed.py [--record] [--count 60000] [--side 200] [--folder FOLDER]

The files are JPEGs in ten classes. Each is a blend of random crops of two solar cells of the wheel `elpv-dataset`, so
that no two are similar. With FOLDER they are kept for the next time. The whole command is timed in a separate process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from evidence import save, take_flag
from PIL import Image

from regraft.runs.demo import demo_images

CLASSES = 10


def write(folder: Path, side: int, cells: list[Path], number: int) -> None:
    """Write one image, which depends only on its number."""
    rng = np.random.default_rng(number)
    cuts = []
    for cell in rng.choice(len(cells), 2, replace=False):
        image = Image.open(cells[cell]).convert("RGB").rotate(float(rng.uniform(0, 360)), Image.Resampling.BILINEAR)
        left, top = rng.integers(40, 120, 2).tolist()
        length = int(rng.integers(90, 140))
        cuts.append(image.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + length, top + length)))
    blend = Image.blend(cuts[0], cuts[1], float(rng.uniform(0.3, 0.7)))
    blend.save(folder / f"class{number % CLASSES}" / f"{number:06d}.jpg", quality=85)


def make(folder: Path, count: int, side: int) -> None:
    """Write all images, on all cores."""
    for number in range(CLASSES):
        (folder / f"class{number}").mkdir(parents=True, exist_ok=True)
    cells = sorted((demo_images() / "images").glob("*.png"))
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(write, folder, side, cells), range(count), chunksize=500))


def memory_of(process: int) -> int:
    """Resident bytes of a process and its children, counting shared memory twice; 0 without /proc."""
    folder = Path("/proc") / str(process)
    try:
        pages = int((folder / "statm").read_text().split()[1])
        children = " ".join(file.read_text() for file in folder.glob("task/*/children")).split()
    except (OSError, IndexError):  # the process has ended
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(memory_of(int(child)) for child in children)


def main() -> None:
    """Write the files if necessary, inspect them twice and print seconds and memory."""
    record = take_flag()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60_000)
    parser.add_argument("--side", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="folder with the images; written if it does not exist")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "images"
        if not folder.exists():
            make(folder, options.count, options.side)
        command = [sys.executable, "-m", "regraft.cli", "inspect", str(folder), "--no-labels", "--json"]
        command += ["--out", f"{temporary}/inspect.html"]
        environment = os.environ | {"REGRAFT_CACHE": f"{temporary}/cache"}
        measured: dict[str, list[float]] = {}
        facts = {}
        for which in ("first", "second"):
            started = time.monotonic()
            peak = 0
            with (
                tempfile.TemporaryFile() as out,
                subprocess.Popen(command, env=environment, stdout=out) as process,
            ):
                while process.poll() is None:
                    peak = max(peak, memory_of(process.pid))
                    time.sleep(0.05)
                seconds = time.monotonic() - started
                out.seek(0)
                inspection = json.load(out)
            kinds = {finding["kind"]: len(finding["files"]) for finding in inspection["findings"]}
            images = inspection["statistics"]["images"]
            memory = f", {peak / 1e6:.0f} MB at most" if peak else ""
            print(f"{which}: {images:,} images in {seconds:.1f} s{memory}; {kinds}", flush=True)
            measured[f"{images:,} images, {which} time"] = [seconds]
            facts[f"{images:,} images, {which} time"] = {"peak_MB": round(peak / 1e6)}
    if record:
        save("inspect-speed", measured, unit="s", facts=facts)


if __name__ == "__main__":
    main()

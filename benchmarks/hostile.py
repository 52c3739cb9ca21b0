"""Every image of Pillow's own test collection, many of them hostile, through inspect, train and predict.

    python benchmarks/hostile.py pillow-VERSION.tar.gz

The argument is Pillow's source distribution from the package index. Reported are crashes, the slowest file, the memory
that each command needs beyond what it needs for twenty harmless images, and whether each file is used or named.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from regraft.data.decode import decode_image
from regraft.data.facts import examine_image
from regraft.errors import ImageError

REGRAFT = [sys.executable, "-m", "regraft.cli"]


def unpack(archive: Path, folder: Path) -> int:
    """Put the images into two classes, under their own names; returns their number."""
    count = 0
    with tarfile.open(archive) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if member.isfile() and "/Tests/images/" in member.name and name.suffix:
                flat = "__".join(name.parts[name.parts.index("images") + 1 :])
                place = folder / ("even", "odd")[count % 2] / flat.lstrip(".")
                place.parent.mkdir(parents=True, exist_ok=True)
                stream = tar.extractfile(member)
                place.write_bytes(stream.read() if stream else b"")
                count += 1
    return count


def harmless(folder: Path) -> None:
    """Twenty images of noise."""
    for number in range(20):
        place = folder / ("even", "odd")[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(place)


def run(*arguments: object, store: Path) -> tuple[int, float, float, str]:
    """Exit code, seconds, peak memory in MB, standard output."""
    started = time.monotonic()
    command = [*REGRAFT, *map(str, arguments)]
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(command, env=os.environ | {"REGRAFT_CACHE": str(store)}, stdout=out)
        _, status, usage = os.wait4(child.pid, 0)
        out.seek(0)
        text = out.read().decode()
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    return os.waitstatus_to_exitcode(status), time.monotonic() - started, peak, text


def main() -> None:
    """Run all three commands on both sets, then each file by itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    options = parser.parse_args()
    fast = ["--image-size", 64, "--finetune-epochs", 0]
    with tempfile.TemporaryDirectory() as temporary:
        folder, plain, store = (Path(temporary) / name for name in ("hostile", "plain", "store"))
        count = unpack(options.archive, folder)
        harmless(plain)
        for verb, extra in (("inspect", []), ("train", fast), ("predict", [])):
            peaks = []
            for name, data in (("plain", plain), ("hostile", folder)):
                target = [f"{temporary}/run-{name}", data] if verb == "predict" else [data]
                out = {"inspect": ["--out", f"{temporary}/{name}.html"], "train": ["--out", f"{temporary}/run-{name}"]}
                code, seconds, peak, text = run(verb, *target, *extra, *out.get(verb, []), "--json", store=store)
                peaks.append(peak)
            more = peaks[1] - peaks[0]
            print(f"{verb}: exit code {code}, {seconds:.0f} s, {more:.0f} MB more than for 20 harmless images")
            if verb == "inspect":
                found = json.loads(text)["statistics"]
                told = found["images"] + found["unreadable"] + found["other_files"]
                print(
                    f"  {count} files: {found['images']} used, {found['unreadable']} unreadable, "
                    f"{found['other_files']} not images by their ending; {count - told} not accounted for"
                )
        slowest: Counter[str] = Counter()
        grown: Counter[str] = Counter()
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            for act in (examine_image, decode_image):
                before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
                with suppress(ImageError):
                    act(file)
                slowest[file.name] = max(slowest[file.name], int(1000 * (time.monotonic() - started)))
                grown[file.name] += resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print("slowest:", ", ".join(f"{name} {ms} ms" for name, ms in slowest.most_common(3)))
        print("largest:", ", ".join(f"{name} {kb / 1000:.0f} MB" for name, kb in grown.most_common(3)))


if __name__ == "__main__":
    main()

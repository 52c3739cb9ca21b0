"""Run inspect, train and predict on every image of Pillow's test suite, of which many are malformed.

    python benchmarks/hostile.py pillow-VERSION.tar.gz

The argument is Pillow's source distribution from the package index. Prints exit codes, the slowest files, the memory of
each command beyond that for twenty valid images, and whether each file is used or reported.
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
from regraft.data.image_stats import examine_image
from regraft.errors import ImageError

REGRAFT = [sys.executable, "-m", "regraft.cli"]


def unpack(archive: Path, folder: Path) -> int:
    """Unpack the images into two class folders under their own names; return their number."""
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


def write_valid_images(folder: Path) -> None:
    """Write twenty valid images of noise."""
    for number in range(20):
        place = folder / ("even", "odd")[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(place)


def run(*arguments: object, cache: Path) -> tuple[int, float, float, str]:
    """Run a command; return exit code, seconds, peak memory in MB and standard output."""
    started = time.monotonic()
    command = [*REGRAFT, *map(str, arguments)]
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(command, env=os.environ | {"REGRAFT_CACHE": str(cache)}, stdout=out)
        _, status, usage = os.wait4(child.pid, 0)
        out.seek(0)
        text = out.read().decode()
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    return os.waitstatus_to_exitcode(status), time.monotonic() - started, peak, text


def main() -> None:
    """Run the commands on both sets, then decode each file separately."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    options = parser.parse_args()
    fast = ["--image-size", 64, "--finetune-epochs", 0]
    with tempfile.TemporaryDirectory() as temporary:
        folder, plain, cache = (Path(temporary) / name for name in ("hostile", "plain", "cache"))
        count = unpack(options.archive, folder)
        write_valid_images(plain)
        for verb, extra in (("inspect", []), ("train", fast), ("predict", [])):
            peaks = []
            for name, data in (("plain", plain), ("hostile", folder)):
                target = [f"{temporary}/run-{name}", data] if verb == "predict" else [data]
                out = {"inspect": ["--out", f"{temporary}/{name}.html"], "train": ["--out", f"{temporary}/run-{name}"]}
                code, seconds, peak, text = run(verb, *target, *extra, *out.get(verb, []), "--json", cache=cache)
                peaks.append(peak)
            more = peaks[1] - peaks[0]
            print(f"{verb}: exit code {code}, {seconds:.0f} s, {more:.0f} MB more than for 20 valid images")
            if verb == "inspect":
                stats = json.loads(text)["statistics"]
                reported = stats["images"] + stats["unreadable"] + stats["other_files"]
                print(
                    f"  {count} files: {stats['images']} used, {stats['unreadable']} unreadable, "
                    f"{stats['other_files']} without an image extension; {count - reported} not reported"
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

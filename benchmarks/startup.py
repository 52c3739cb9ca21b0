"""Seconds from the shell to the first image, to the first line and to the end of short commands.

    python benchmarks/startup.py [REVISION] [--record]

Each command is a fresh process with an empty cache, seven times; with a REVISION of the sources (`HEAD~1`, a commit),
its commands take turns with those of the sources here. The images are made here: 100 photographs of noise, 320 pixels
wide. `first image` is when the scan reports it as read, `first line` is a line of the command's output, and `end` is
the end of the process. A command of which only the start is measured is ended there.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from evidence import save, take_flag
from PIL import Image

ROUNDS, IMAGES, SIDE = 7, 100, 320
_HERE = Path(__file__).parent.parent
#: What the process prints when its scan reports the first image.
_MARK = "the first image is read"
#: `regraft`, with the mark.
_REGRAFT = f"""
import sys
from regraft.data.index import ImageIndex
read = ImageIndex.read
def marked(self, found, workers, progress, **options):
    def report(done, total):
        if report.is_first:
            print({_MARK!r}, flush=True)
            report.is_first = False
        progress(done, total)
    report.is_first = True
    return read(self, found, workers, report, **options)
ImageIndex.read = marked
from regraft.cli import main
main()
"""
_PLAIN = "from regraft.cli import main; main()"


def main() -> None:
    """Measure in turns and print a table."""
    record = take_flag()
    with tempfile.TemporaryDirectory() as place, sources_of(sys.argv[1] if len(sys.argv) > 1 else "") as versions:
        folder = Path(place)
        data = make_images(folder / "photos")
        train = ["train", str(data), "--image-size", "64", "--epochs", "0"]
        run(_PLAIN, [*train, "--out", f"{folder}/run"], _HERE, folder)
        image = str(next(data.rglob("*.jpg")))
        commands = {
            "import regraft": ("import regraft", [], "end"),
            "regraft --help": (_PLAIN, ["--help"], "end"),
            "regraft train --help": (_PLAIN, ["train", "--help"], "end"),
            "regraft config": (_PLAIN, ["config"], "end"),
            "regraft train": (_REGRAFT, train, "first line"),
            "regraft inspect": (_REGRAFT, ["inspect", str(data), "--no-labels", "--out", f"{folder}/page.html"], "end"),
            "regraft predict": (_PLAIN, ["predict", f"{folder}/run", image], "end"),
            "regraft evaluate": (_PLAIN, ["evaluate", f"{folder}/run"], "end"),
        }
        samples: dict[str, list[float]] = {}
        for number in range(ROUNDS + 1):
            for name, (program, words, last) in commands.items():
                # In turns, because the first after a pause may be slower.
                for version, sources in sorted(versions.items(), reverse=number % 2 == 1):
                    for step, seconds in run(program, words, sources, folder, last).items():
                        if number:  # the first time Python compiles the modules
                            samples.setdefault(f"{name}, {step}{version}", []).append(seconds)
    for name, values in samples.items():
        print(f"{name:50} {statistics.median(values):6.2f} s  ({min(values):.2f} to {max(values):.2f})")
    if record:
        save("startup", samples, unit="s", title="Start of commands")


@contextmanager
def sources_of(revision: str) -> Iterator[dict[str, Path]]:
    """Words behind a label -> the sources: those here, and those of a revision, if one is given."""
    if not revision:
        yield {"": _HERE}
        return
    with tempfile.TemporaryDirectory() as place:
        git = ["git", "-C", str(_HERE), "worktree"]
        subprocess.run([*git, "add", "--detach", f"{place}/before", revision], check=True, capture_output=True)
        try:
            yield {" (before)": Path(place, "before"), " (now)": _HERE}
        finally:
            subprocess.run([*git, "remove", "--force", f"{place}/before"], check=True, capture_output=True)


def make_images(folder: Path) -> Path:
    """Photographs of noise in two classes, in a new folder."""
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        file = folder / ("light" if number % 2 else "dark") / f"{number:03d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 128, (SIDE // 8, SIDE // 8, 3)) + 127 * (number % 2)
        Image.fromarray(coarse.astype(np.uint8)).resize((SIDE, SIDE)).save(file)
    return folder


def run(program: str, words: list[str], sources: Path, folder: Path, last: str = "end") -> dict[str, float]:
    """Seconds until each step of a command; it is killed after the `last` step."""
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        environment = {**os.environ, "PYTHONPATH": str(sources / "src"), "REGRAFT_CACHE": cache}
        started = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-c", program, *words], env=environment, cwd=folder, text=True, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                step = "first image" if line.strip() == _MARK else "first line"
                seconds.setdefault(step, time.perf_counter() - started)
                if step == last:
                    process.kill()
                    return seconds
        seconds["end"] = time.perf_counter() - started
        if process.returncode:
            raise SystemExit(f"regraft {' '.join(words)} failed with the code {process.returncode}")
    return {step: value for step, value in seconds.items() if step in ("first image", last)}


if __name__ == "__main__":
    main()

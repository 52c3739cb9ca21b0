"""Time regraft and its peers, each in its own virtual environment, on the same images and backbone weights.

    python benchmarks/peers/run.py --data FOLDER                      every recipe of RECIPES once
    python benchmarks/peers/run.py --data FOLDER --only loop --repeats 3
    python benchmarks/peers/run.py --data FOLDER --recipe "loop --recipe full --epochs 30" --recipe "sklearn_features"
    python benchmarks/peers/run.py --data FOLDER FOLDER --images all 200 50 --repeats 3 --recipes presets

FOLDER contains train/CLASS and test/CLASS (`benchmarks/datasets.py` makes some). `--images` draws so many training
images (`benchmarks/draw.py`), another draw in every round; the test images are the same. The first run creates the
environments (several gigabytes each, because each has its own PyTorch) and exports the weights with regraft, which must
be importable unless `--weights` is given. Rounds are interleaved: every set and recipe once with seed 0, then with seed
1. Each result is one line of JSON in `results.jsonl` of the work folder, or in `--results`. If a recipe fails, its
error is recorded and the others continue. `--record` writes `benchmarks/results/peers-SET.json`, or peers-SET-N.json
for N images, with the last result of each recipe and seed in that file, so that a sitting may have several calls;
`--record NAME` has NAME for SET, where there is one set.

A round of `--recipes presets` takes about two hours per 1,000 training images at 160 pixels on two cores, most of it
AutoGluon's (20 epochs in float32: about 15 minutes, best_quality twice that), then the transformers Trainer (20 epochs:
10 minutes) and fastai (20 epochs: 25 minutes). Time grows with the number of images. Give `--timeout 7200`.

On Linux these variables give the peers the effect of regraft's `keep_freed_memory`:

    --environment MALLOC_MMAP_THRESHOLD_=1073741824 --environment MALLOC_TRIM_THRESHOLD_=2147483647
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shlex
import subprocess
import sys
import time
import venv
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from draw import draw
from evidence import save

HERE = Path(__file__).resolve().parent
OURS = "regraft_train"
PEERS = (OURS, "loop", "fastai_learner", "hf_trainer", "autogluon_multimodal", "sklearn_features")

#: Default recipes: a peer and its options.
RECIPES = (
    "regraft_train --epochs 0",
    "regraft_train --epochs 0 --warm",
    "regraft_train --epochs 3 --start last --views 1",
    "regraft_train --epochs 2 --start last --views 1 --val 0",
    "regraft_train --epochs 3 --start last --views 1 --val 0",
    "regraft_train --epochs 5",
    "regraft_train --epochs 10",
    "regraft_train --epochs 20",
    "sklearn_features",
    "loop --recipe frozen",
    "loop --recipe frozen+finetune",
    "loop --recipe frozen+finetune --f32",
    "loop --recipe full --epochs 5",
    "loop --recipe full --epochs 10",
    "loop --recipe full --epochs 20",
    "fastai_learner --epochs 5 --bf16",
    "hf_trainer --epochs 3 --lr 5e-5 --schedule linear",
    "hf_trainer --epochs 10 --lr 5e-4",
    "hf_trainer --epochs 10 --lr 5e-4 --fixed-norm",
)

#: regraft's presets and the peers that choose for their users, each with its most accurate recipe of RECIPES.
PRESETS = (
    "regraft_train --preset fast",
    "regraft_train --preset balanced",
    "regraft_train --preset best",
    "autogluon_multimodal --preset medium_quality",
    "autogluon_multimodal --preset best_quality",
    "autogluon_multimodal --preset best_quality --batch-size 8",
    "fastai_learner --epochs 5 --bf16",
    "fastai_learner --epochs 20 --bf16",
    "hf_trainer --epochs 10 --lr 5e-4 --fixed-norm",
    "hf_trainer --epochs 20 --lr 5e-4 --fixed-norm",
)


class PeerError(Exception):
    """A peer could not be installed or gave no result."""


def requirements_of(peer: str) -> list[str]:
    """Read the constant `requirements` of a peer without running it."""
    for node in ast.parse((HERE / f"{peer}.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "requirements":
            return [str(line) for line in ast.literal_eval(node.value)]
    raise PeerError(f"{peer}.py has no constant requirements")


def environment(peer: str, work: Path) -> Path:
    """Create the peer's environment unless it exists with the same requirements; return its interpreter."""
    folder = work / "venv" / peer
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp, wanted = folder / "requirements.json", requirements_of(peer)
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == wanted:
        return python
    print(f"{peer}: installing {', '.join(wanted)}", flush=True)
    try:
        venv.create(folder, clear=True, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PeerError(f"no environment: {error}") from error
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (work / "venv" / f"{peer}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        raise PeerError(f"pip failed ({done.returncode}): {tail(done.stderr)}")
    stamp.write_text(json.dumps(wanted), encoding="utf-8")
    return python


def weights_file(given: Path | None, work: Path) -> Path:
    """Return the given file, or regraft's export, which is created once."""
    file = given or work / "weights.safetensors"
    if given is None and not file.is_file():
        subprocess.run([sys.executable, str(HERE / "prepare.py"), "--out", str(file)], check=True)
    return file.resolve()


def environments(recipes: list[str], work: Path) -> dict[str, Path | PeerError]:
    """Return the interpreter of each peer in the recipes, or the error."""
    found: dict[str, Path | PeerError] = {}
    for peer in dict.fromkeys(recipe.split()[0] for recipe in recipes):
        try:
            if peer not in PEERS:
                raise PeerError(f"no peer {peer!r}; expected one of {', '.join(PEERS)}")
            found[peer] = Path(sys.executable) if peer == OURS else environment(peer, work)
        except PeerError as error:
            found[peer] = error
    return found


def run_one(
    recipe: str, seed: int, data: Path, python: Path | PeerError, weights: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Run a recipe once on the folder `data` and return its result.

    Raises:
        PeerError: It failed; the message is the end of its output.
    """
    if isinstance(python, PeerError):
        raise python
    peer, *options = shlex.split(recipe)
    words = [data.name, peer, *(o.strip("-") for o in options), str(arguments.size), str(seed)]
    out = arguments.work / "runs" / "_".join(words)
    common = {"--data": data, "--weights": weights, "--out": out, "--size": arguments.size}
    common |= {"--seed": seed} | ({"--threads": arguments.threads} if arguments.threads else {})
    command = [str(python), str(HERE / f"{peer}.py")]
    command += [str(word) for pair in common.items() for word in pair] + options
    out.mkdir(parents=True, exist_ok=True)
    surroundings = os.environ | dict(pair.split("=", 1) for pair in arguments.environment)
    surroundings.pop("PYTHONPATH", None)
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=arguments.timeout, env=surroundings
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"not finished after {arguments.timeout:g} s") from error
    process_seconds = time.perf_counter() - started
    (out / "log.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        raise PeerError(f"exit code {done.returncode}: {tail(done.stderr)}")
    try:
        result: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    except json.JSONDecodeError as error:
        raise PeerError(f"the last line is not a result: {tail(done.stdout)}") from error
    return result | {"process_seconds": round(process_seconds, 3)}


def tail(text: str, lines: int = 6) -> str:
    """Return the last lines of a program's output."""
    return " | ".join(" ".join(line.split()) for line in text.strip().splitlines()[-lines:]) or "no output"


def main() -> int:
    """Run all recipes; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders with train/CLASS and test/CLASS")
    parser.add_argument("--images", nargs="+", default=["all"], metavar="N", help="training images: numbers, or all")
    parser.add_argument("--weights", type=Path, help="backbone weights under timm's names; default: regraft's export")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / ".bench", help="environments, runs and results")
    parser.add_argument("--results", type=Path, help="default: results.jsonl in the work folder; lines are appended")
    parser.add_argument("--recipe", action="append", help="a peer and its options, instead of RECIPES; repeatable")
    parser.add_argument("--recipes", choices=("all", "presets"), default="all", help="RECIPES or PRESETS of this file")
    parser.add_argument("--only", action="append", choices=PEERS, help="only the recipes of this peer; repeatable")
    parser.add_argument("--record", nargs="?", const="", metavar="NAME", help="write benchmarks/results/peers-*.json")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--size", type=int, default=160, help="side of the images in pixels")
    parser.add_argument("--threads", type=int, help="default: every core")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one run")
    parser.add_argument(
        "--environment", action="append", default=[], metavar="NAME=VALUE", help="for the peers; repeatable"
    )
    arguments = parser.parse_args()
    arguments.work = arguments.work.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)
    (arguments.work / ".gitignore").write_text("*\n", encoding="utf-8")
    if arguments.record and len(arguments.data) > 1:
        parser.error("--record NAME names one set; with several, give --record alone")
    weights = weights_file(arguments.weights, arguments.work)
    recipes = [
        recipe
        for recipe in arguments.recipe or (PRESETS if arguments.recipes == "presets" else RECIPES)
        if not arguments.only or recipe.partition(" ")[0] in arguments.only
    ]
    interpreters = environments(recipes, arguments.work)
    results, rows = arguments.results or arguments.work / "results.jsonl", []
    for seed in range(arguments.repeats):
        for source in arguments.data:
            for images in arguments.images:
                data = source.resolve()
                if images != "all":
                    data = draw(data, arguments.work / "draws" / f"{data.name}-{images}-{seed}", int(images), seed)
                for recipe in recipes:
                    rows.append(measured_row(recipe, seed, data, interpreters[recipe.split()[0]], weights, arguments))
                    rows[-1] |= {"data": source.name, "images": images}
                    with results.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(rows[-1]) + "\n")
    if arguments.record is not None:
        for source in arguments.data:
            for images in arguments.images:
                chosen = [r for r in last_rows(results) if (r["data"], r["images"]) == (source.name, images)]
                record((arguments.record or source.name) + (f"-{images}" if images != "all" else ""), chosen, source)
    return int(any("error" in row for row in rows))


def measured_row(
    recipe: str, seed: int, data: Path, python: Path | PeerError, weights: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Run a recipe once, print its result or error, and return it with its circumstances."""
    row: dict[str, Any] = {"command": recipe, "round": seed}
    row["started"] = datetime.now(UTC).isoformat(timespec="seconds")
    if arguments.environment:
        row["environment"] = arguments.environment
    row["load_before"] = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    try:
        row |= run_one(recipe, seed, data, python, weights, arguments)
        figures = f"{row['accuracy']:.4f} ({row['correct']}/{row['count']}) {row['seconds']:8.1f} s"
        print(f"{data.name:<20} {recipe:<52} {figures} {row['peak_megabytes']:7.0f} MB", flush=True)
    except PeerError as error:
        row["error"] = str(error)
        print(f"{data.name:<20} {recipe:<52} failed: {error}", flush=True)
    return row


def last_rows(results: Path) -> list[dict[str, Any]]:
    """The last row without an error of each recipe, seed, set and number of images, in the order of the first ones."""
    last: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in results.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "error" not in row:
            last[row["command"], row["round"], row["data"], row["images"]] = row
    return list(last.values())


def record(name: str, rows: list[dict[str, Any]], data: Path) -> None:
    """Write seconds, accuracies with 95 % Wilson intervals of the median run, and peak memory as a result."""
    from regraft.evaluation.intervals import wilson_interval

    seconds: dict[str, list[float]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for recipe in dict.fromkeys(row["command"] for row in rows):
        runs = [row for row in rows if row["command"] == recipe]
        correct, count = int(median(run["correct"] for run in runs)), runs[0]["count"]
        low, high = wilson_interval(correct, count)
        seconds[recipe] = [run["seconds"] for run in runs]
        facts[recipe] = {
            "accuracy": f"{correct / count:.3f} ({low:.3f} to {high:.3f})",
            "mean_accuracy": round(mean(run["accuracy"] for run in runs), 4),
            "accuracies": [round(run["accuracy"], 4) for run in runs],
            "peak_MB": round(median(run["peak_megabytes"] for run in runs)),
        }
    images = rows[0]["images"]
    words = ["--data", data.name, *(["--images", images] if images != "all" else []), "--record"]
    words += [word for recipe in seconds for word in ("--recipe", recipe)]
    command = f"python benchmarks/peers/run.py {shlex.join(words)}"
    save(f"peers-{name}", seconds, unit="s", facts=facts, data=data, command=command)


if __name__ == "__main__":
    sys.exit(main())

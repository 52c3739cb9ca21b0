"""The clock of the day goes back an hour during trainings and servers, and before the cache is emptied."""

from __future__ import annotations

import csv
import json
import random
import re
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from serve import running_server

from faults.forks import build_preload, run_command
from faults.outcomes import Outcome
from faults.training import Part, Place

_BACK = -3600


class Clock(Part):
    """Trainings must be the undisturbed one without a negative time, and servers must answer and count as before."""

    name, title, count = "clock", "Clock goes back", 30

    def __init__(self, servers: int = 5) -> None:
        """Store how many of the faults are those of servers."""
        self.servers = servers

    def outcomes(self, place: Place, done: Sequence[Outcome], count: int) -> Iterator[Outcome]:
        """See `Part`; the last of them are servers, and the one before empties the cache."""
        known = {outcome.number for outcome in done}
        for number in range(count):
            if number not in known:
                from_end = count - self.servers - number
                cause = _train if from_end > 1 else _empty_cache if from_end == 1 else _serve
                yield cause(number, place)


def _train(number: int, place: Place) -> Outcome:
    moment = random.Random(f"clock {number}").uniform(0.0, 1.0) * place.training.seconds
    with place.temporary() as folder:
        out = folder / "run"
        ended = place.train(place.training.words(out), folder / "cache", clock=(moment, _BACK))
        wrong = ended.problem or (ended.text[-500:] if ended.code else place.training.difference(out))
        wrong = wrong or negative_times(out)
    return Outcome(number, "training", ended.seconds, wrong)


def negative_times(run: Path) -> str:
    """Which time of a run is below 0; "" if none is."""
    metrics = json.loads((run / "metrics.json").read_text())["time"]
    negative = [name for name, value in _numbers(metrics) if value < 0]
    with (run / "history.csv").open(newline="") as file:
        negative += [f"epoch {row['epoch']}" for row in csv.DictReader(file) if float(row["seconds"]) < 0]
    return f"negative times: {', '.join(negative)}" if negative else ""


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, key)
    elif isinstance(value, (int, float)):
        yield name, value


def _empty_cache(number: int, place: Place) -> Outcome:
    """Tables that were used at a time that is still to come are removed, too."""
    with place.temporary() as folder:
        cache, call = {"REGRAFT_CACHE": str(folder / "cache")}, place.forks.call
        place.train(place.training.words(folder / "run"), folder / "cache")
        shown = call(run_command, ["cache"], environment=cache, clock=(0.0, _BACK))
        ended = call(run_command, ["cache", "--prune", "--json"], environment=cache, clock=(0.0, _BACK))
    left = json.loads(ended.text)["entries"] if not ended.code else []
    wrong = shown.problem or ended.problem or (f"{len(left)} tables are left" if left else "")
    negative = re.findall(r"-\d+ (?:h|days) ago", shown.text)
    wrong = wrong or (f"a negative age: {negative[0]}" if negative else "")
    return Outcome(number, "emptying the cache", ended.seconds, wrong)


def _serve(number: int, place: Place) -> Outcome:
    """A server answers before and after the jump; its gauges and its log know of no negative time."""
    image, started = next(place.training.data.rglob("*.png")).read_bytes(), time.monotonic()
    with place.temporary() as folder:
        jump, log = folder / "jump", folder / "log"
        environment = {
            "LD_PRELOAD": str(build_preload(place.folder)), "FAULTS_CLOCK_FILE": str(jump),
            "FAULTS_CLOCK_SECONDS": str(_BACK),
        }  # fmt: skip
        with running_server(str(place.training.run), "--log", log, **environment) as server:
            answers = [_ask(server.address, image) for _ in range(5)]
            jump.touch()
            answers += [_ask(server.address, image) for _ in range(5)]
            with urllib.request.urlopen(f"{server.address}/metrics") as reply:
                gauges = reply.read().decode()
        lines = sum(len(file.read_text().splitlines()) for file in log.rglob("*") if file.is_file())
    negative = [line for line in gauges.splitlines() if re.search(r" -\d", line) and not line.startswith("#")]
    wrong = f"negative: {negative}" if negative else ""
    if len({json.dumps(answer, sort_keys=True) for answer in answers}) > 1:
        wrong = wrong or f"other answers: {answers}"
    if lines < len(answers):
        wrong = wrong or f"{lines} lines in the log of {len(answers)} answers"
    return Outcome(number, "server", time.monotonic() - started, wrong)


def _ask(address: str, image: bytes) -> Any:
    headers = {"Content-Type": "application/octet-stream"}
    with urllib.request.urlopen(urllib.request.Request(f"{address}/predict", image, headers)) as reply:
        return json.loads(reply.read())

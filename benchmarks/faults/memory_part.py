"""The system kills a process that decodes or trains, as it does when there is no memory, or gives no more memory."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from process_kills import is_equal, kill_one
from processes import REGRAFT, differences
from processes import train as train_in_processes
from serve import children_of, running_server

from faults.outcomes import Outcome
from faults.training import Part, Place, half_written, write_squares

#: Images of a color from which on a scan starts processes, and decoders of a server that are killed, one by one.
_IMAGES, _DECODERS = 800, 5
#: Bytes that a training may use more than PyTorch does.
_ROOM = (2 * 2**20, 300 * 2**20)


class Memory(Part):
    """Trainings without memory, killed decoders of scans and servers, and killed processes of trainings."""

    name, title, count = "memory", "No memory", 40

    def outcomes(self, place: Place, done: Sequence[Outcome], count: int) -> Iterator[Outcome]:
        """See `Part`; of twenty faults one kills a process of two, one decoders of a server, three those of scans."""
        known = {outcome.number for outcome in done}
        others: dict[int, Callable[[int, Place], Outcome]] = {3: _scan, 8: _serve, 13: _scan, 17: _scan, 19: _processes}
        for number in range(count):
            if number not in known:
                yield others.get(number % 20, _without_memory)(number, place)


def _without_memory(number: int, place: Place) -> Outcome:
    room = random.Random(f"memory {number}").randrange(*_ROOM)
    training = place.training
    with place.temporary() as folder:
        out, cache = folder / "run", folder / "cache"
        ended = place.train(training.words(out), cache, room=room)
        wrong = ended.problem
        if not wrong and ended.code:
            wrong = half_written(out) if out.exists() else ""
            again = place.train(training.continue_words(out), cache)
            wrong = wrong or (f"the next one fails: {again.text[-600:]}" if again.code else "")
        wrong = wrong or training.difference(out)
    facts = {"refused": ended.code != 0}
    return Outcome(number, "training without memory", ended.seconds, wrong and f"{room} bytes: {wrong}", facts)


def _scan(number: int, place: Place) -> Outcome:
    """A killed process that decodes is replaced, and every image is read."""
    data, draw = place.folder / "many", random.Random(f"memory {number}")
    if not data.exists():
        write_squares(place.folder / f"many-{os.getpid()}", _IMAGES, 16).rename(data)
    with place.temporary() as folder:
        words = [*REGRAFT, "inspect", str(data), "--no-labels", "--out", f"{folder}/page.html", "--json"]
        environment = {**os.environ, "REGRAFT_CACHE": f"{folder}/cache"}
        started, killed = time.monotonic(), 0
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(words, env=environment, **pipes)
        wait = draw.uniform(0.3, 1.5)  # until a process has started and works
        while process.poll() is None and not killed:
            time.sleep(0.02)
            if workers := children_of(process.pid):
                time.sleep(wait)
                with suppress(ProcessLookupError):
                    os.kill(draw.choice(workers), signal.SIGKILL)
                    killed += 1
        text, error = process.communicate(timeout=120)
        seconds = time.monotonic() - started
        found = json.loads(text)["statistics"] if not process.returncode else {}
        expected = {"images": 3 * _IMAGES, "unreadable": 0}
        wrong = "" if {name: found.get(name) for name in expected} == expected else f"{found} {error[-500:]}"
    return Outcome(number, "scan", seconds, wrong, {"killed": bool(killed)})


def _serve(number: int, place: Place) -> Outcome:
    """A request whose decoder is killed may fail with a sentence; all others are answered."""
    image, statuses, ending = next(place.training.data.rglob("*.png")).read_bytes(), Counter[str](), threading.Event()

    def ask() -> None:
        while not ending.is_set():
            request = urllib.request.Request(f"{server.address}/predict", image, {"Content-Type": "image/png"})
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:
                    statuses["answered" if json.loads(reply.read()) else "empty"] += 1
            except urllib.error.HTTPError as error:
                statuses["killed" if b"SIGKILL" in error.read() else str(error.code)] += 1

    started = time.monotonic()
    with running_server(str(place.training.run), "--decoders", 2) as server:
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(_DECODERS):
            time.sleep(1.5)
            os.kill(children_of(server.process.pid)[0], signal.SIGKILL)
        time.sleep(3)
        ending.set()
        for thread in threads:
            thread.join()
    is_right = statuses["killed"] <= _DECODERS and set(statuses) <= {"answered", "killed"} and statuses["answered"] > 20
    return Outcome(number, "server", time.monotonic() - started, "" if is_right else f"{dict(statuses)}")


def _processes(number: int, place: Place) -> Outcome:
    """One of two processes is killed; the other says so and ends, and the run resumes to the same numbers."""
    training, whole = place.training, place.folder / "two-processes"
    options = training.words(Path("out"))[4:]
    if not (whole / "metrics.json").exists():
        train_in_processes(training.data, whole, options, 2)
    with place.temporary() as folder:
        started, out = time.monotonic(), folder / "run"
        seconds = json.loads((whole / "metrics.json").read_text())["time"]["train_seconds"] + 8  # to start them
        try:
            kill_one(training.data, out, options, random.Random(f"memory {number}"), seconds)
            found = differences(out, whole)
            wrong = "" if is_equal(found) else f"{found}"
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            wrong = str(error)[-800:]
    return Outcome(number, "one of two processes", time.monotonic() - started, wrong)

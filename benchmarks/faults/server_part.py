"""Servers under load: SIGTERM at random moments, and memory over half an hour."""

from __future__ import annotations

import argparse
import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

from serve import Server, running_server, sigterm

from faults.outcomes import Outcome
from faults.training import Part, Place

#: Clients at once, share of the highest rate, and seconds between samples of memory.
_CLIENTS, _LOAD, _SAMPLED = 8, 0.7, 5.0
#: Share of the time after which memory should not grow any more, and the limit of its growth.
_WARM, _GROWTH = 1 / 6, 0.01


class Sigterm(Part):
    """Every request that was accepted gets its whole answer, and the server ends with exit code 0."""

    name, title, count = "sigterm", "SIGTERM under load", 50

    def outcomes(self, place: Place, done: Sequence[Outcome], count: int) -> Iterator[Outcome]:
        """See `Part`."""
        images = sorted(place.training.data.rglob("*.png"))
        for number in range(len(done), count):
            started = time.monotonic()
            found = sigterm(str(place.training.run), images, argparse.Namespace(times=1))
            counts = {name: value for name, value in found.items() if name not in ("times", "good")}
            is_right = found["good"] and not found.get("unaccepted", 0)
            facts = {"answered": found["200"], "refused": found.get("503", 0)}
            wrong = "" if is_right else f"{counts}"
            yield Outcome(number, "until the server has ended", time.monotonic() - started, wrong, facts)


class Load(Part):
    """A server at 70 % of its highest rate must answer everything, and its memory must not grow after the start."""

    name, title, count = "load", "Memory under load", 1

    def __init__(self, minutes: float, *, measured: float = 10.0) -> None:
        """Store how long the load lasts, and for how many seconds the highest rate is measured."""
        self.seconds, self.measured = 60 * minutes, measured

    def outcomes(self, place: Place, done: Sequence[Outcome], count: int) -> Iterator[Outcome]:
        """See `Part`."""
        bodies = [file.read_bytes() for file in sorted(place.training.data.rglob("*.png"))]
        for number in range(len(done), count):
            with running_server(str(place.training.run)) as server:
                send(server, bodies, None, self.measured / 2, [])
                highest = sum(send(server, bodies, None, self.measured, []).values()) / self.measured
                megabytes = list[float]()
                statuses = send(server, bodies, _LOAD * highest, self.seconds, megabytes)
            before, after, growth = growth_of(megabytes)
            right = set(statuses) == {"200"} and growth < _GROWTH
            facts = {"answered": statuses["200"], "rate": _LOAD * highest, "mb_before": before, "mb_after": after,
                     "growth_percent": 100 * growth}  # fmt: skip
            wrong = "" if right else f"{dict(statuses)}, memory {megabytes}"
            yield Outcome(number, f"{self.seconds / 60:g} min at 70 %", self.seconds, wrong, facts)


def growth_of(megabytes: Sequence[float]) -> tuple[float, float, float]:
    """Memory after the first sixth of the time and at its end, each the median of a tenth, and the growth."""
    start, length = int(_WARM * len(megabytes)), max(1, len(megabytes) // 10)
    before, after = median(megabytes[start : start + length]), median(megabytes[-length:])
    return before, after, after / before - 1


def send(
    server: Server, bodies: Sequence[bytes], rate: float | None, seconds: float, megabytes: list[float]
) -> Counter[str]:
    """Send images at a steady rate (None: each client its next one at once), and sample the server's memory."""
    started, found = time.monotonic(), [Counter[str]() for _ in range(_CLIENTS)]

    def ask(client: int) -> None:
        connection, number = http.client.HTTPConnection(server.host, server.port, timeout=60), client
        while (now := time.monotonic() - started) < seconds:
            due = now if rate is None else number / rate
            if due > now:
                time.sleep(min(due - now, seconds - now))
                continue
            headers = {"Content-Type": "application/octet-stream"}
            try:
                connection.request("POST", "/predict", bodies[number % len(bodies)], headers)
                answer = connection.getresponse()
                answer.read()
                found[client][str(answer.status)] += 1
            except (OSError, http.client.HTTPException) as error:
                found[client][type(error).__name__] += 1
                connection.close()
            number += _CLIENTS
        connection.close()

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    while time.monotonic() - started < seconds:
        time.sleep(min(_SAMPLED, seconds / 30))
        megabytes.append(server.megabytes())
    for thread in threads:
        thread.join()
    return sum(found, Counter[str]())

"""Cause faults, and check that nothing is lost, half written, wrong or without a clear error.

    python benchmarks/faults [--parts kills,errors,...] [--minutes 6] [--count N] [--record]

    kills    trainings killed by SIGKILL at random moments and resumed: the same bits as an undisturbed one
    errors   ENOSPC, EIO and EACCES at each call that changes a file of a run, an export or the cache
    clock    the clock goes back an hour during a training and a server
    memory   the system kills a process that decodes or trains, or gives no more memory
    images   damaged image files of every format, scanned and decoded
    models   damaged files of runs and exports, loaded for predictions
    sigterm  SIGTERM to a server under load
    load     memory of a server at 70 % of its highest rate

A part ends when it has all its faults (or `--count`), or after `--minutes`; the next call continues it, if the sources
are the same. `--record` writes what is there to `benchmarks/results/faults-PART.json`. Needs Linux and a C compiler.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parent.parent)  # this file's folder, whose modules are those of a package

from evidence import save

from faults.clock_part import Clock
from faults.error_part import Errors
from faults.image_part import Images
from faults.kill_part import Kills
from faults.memory_part import Memory
from faults.model_part import Models
from faults.outcomes import Journal, rows_of, version_of_sources
from faults.server_part import Load, Sigterm
from faults.training import Part, Place, prepared


def parts(minutes: float | None) -> dict[str, Part]:
    """All parts, by name; the load lasts these minutes, default: 30."""
    every = (Kills(), Errors(), Clock(), Memory(), Images(), Models(), Sigterm(), Load(minutes or 30.0))
    return {part.name: part for part in every}


def run_part(part: Part, place: Place, *, count: int, seconds: float, afresh: bool, record: bool) -> bool:
    """Cause the faults of a part that its journal does not have; returns whether all had the right end."""
    journal, deadline = Journal(place.folder, part.name, afresh=afresh), time.monotonic() + seconds
    count = count or part.count
    outcomes = part.outcomes(place, journal.outcomes[:], count)
    for outcome in outcomes:
        journal.add(outcome)
        if outcome.wrong:
            print(f"{part.name} {outcome.number}, {outcome.case}: {outcome.wrong}", flush=True)
        if time.monotonic() > deadline:
            break
    outcomes.close()
    right = sum(not outcome.wrong for outcome in journal.outcomes)
    print(f"{part.name}: {right} of {len(journal.outcomes)} have the right end", flush=True)
    if record and journal.outcomes:
        measurements, facts = rows_of(journal.outcomes)
        save(
            f"faults-{part.name}", measurements, unit="s", title=part.title, facts=facts,
            command=f"python benchmarks/faults --parts {part.name} --record",
        )  # fmt: skip
    return right == len(journal.outcomes)


def main() -> int:
    """Cause the faults of the chosen parts; return 1 if one had a wrong end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(parts(None)), help="names, with commas; default: all")
    parser.add_argument("--minutes", type=float, help="end each part after so many; the next call continues it")
    parser.add_argument("--count", type=int, default=0, help="faults of each part; default: all")
    parser.add_argument("--afresh", action="store_true", help="forget what earlier calls have done")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "regraft-faults")
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    folder, right = arguments.work / version_of_sources(), True
    seconds = 60 * arguments.minutes if arguments.minutes else float("inf")
    with prepared(folder) as place:
        for name in arguments.parts.split(","):
            part = parts(arguments.minutes)[name]
            right &= run_part(
                part, place, count=arguments.count, seconds=seconds, afresh=arguments.afresh, record=arguments.record
            )
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())

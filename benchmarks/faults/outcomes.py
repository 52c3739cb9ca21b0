"""What a campaign finds: outcomes of single faults, and the journal that keeps them between calls."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evidence import commit


@dataclass(frozen=True)
class Outcome:
    """What a fault did.

    `case` names its kind, a row of the table. `seconds` is how long the disturbed work took, `wrong` what is wrong
    with the end of it ("": nothing), and `facts` has numbers, of which a row shows the largest, and truths, which it
    counts.
    """

    number: int
    case: str
    seconds: float
    wrong: str = ""
    facts: dict[str, float | bool] = field(default_factory=dict)


class Journal:
    """A file with the outcomes of a part, which the next call continues if the sources are the same."""

    def __init__(self, folder: Path, part: str, *, afresh: bool = False) -> None:
        """Read what is there, or delete it."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / f"{part}.jsonl"
        if afresh:
            self._file.unlink(missing_ok=True)
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self.outcomes = [Outcome(**json.loads(line)) for line in lines]

    def add(self, outcome: Outcome) -> None:
        """Append an outcome."""
        self.outcomes.append(outcome)
        with self._file.open("a") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")


def version_of_sources() -> str:
    """A name that changes when `src` does."""
    words = ["git", "rev-parse", "--short=12", "HEAD:src"]
    done = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() + ("+changes" if commit().endswith("+changes") else "")


#: Samples of a row above which the largest of each block of faults are recorded.
_MOST_SAMPLES = 250


def rows_of(outcomes: Sequence[Outcome]) -> tuple[dict[str, list[float]], dict[str, dict[str, Any]]]:
    """Seconds and facts by case, as `evidence.save` takes them; of many faults the slowest of each block."""
    seconds, facts = dict[str, list[float]](), dict[str, dict[str, Any]]()
    for case in dict.fromkeys(outcome.case for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.case == case]
        block = -(-len(own) // _MOST_SAMPLES)
        times = [round(outcome.seconds, 4) for outcome in own]
        seconds[case] = [max(times[start : start + block]) for start in range(0, len(times), block)]
        facts[case] = {"faults": len(own), "right": sum(not outcome.wrong for outcome in own)}
        for name in dict.fromkeys(name for outcome in own for name in outcome.facts):
            values = [outcome.facts[name] for outcome in own if name in outcome.facts]
            is_count = all(isinstance(value, bool) for value in values)
            facts[case][name] = sum(values) if is_count else round(max(values), 3)
    return seconds, facts

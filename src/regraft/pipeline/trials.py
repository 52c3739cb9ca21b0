"""Records of trials, those of full trainings as files, and what a search was begun with.

Enters: what a training gave. Leaves: frozen values, and a folder of JSON files, one for each full training.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from regraft.config import Config
from regraft.errors import RunError, UsageError
from regraft.files import write_json
from regraft.training.engine import EngineName

SEARCH, BASE = "search.json", "base.toml"
#: Completed trials below which importances would be chance.
ENOUGH = 12


@dataclass(frozen=True)
class Record:
    """What came of one trial.

    Attributes:
        number: From 0, the base configuration.
        params: By setting.
        state: `complete`, `pruned` (ended early because others were better) or `failed`.
        value: What is minimised; None unless complete.
        loss: Of a validation image at the best temperature, in nats.
        accuracy: On validation, 0..1.
        macro_f1: Likewise.
        seconds: In all.
        steps: Seconds of decode, prefix, head, finetune.
        finetuned: Whether the fine-tuned model was better than its head alone.
        engine: What ran the frozen layers.
        why: It failed or was pruned, or what it is the same as; else "".
    """

    number: int
    params: dict[str, Any]
    state: str
    value: float | None = None
    loss: float | None = None
    accuracy: float | None = None
    macro_f1: float | None = None
    seconds: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)
    finetuned: bool = False
    engine: EngineName = "torch"
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Final:
    """A configuration that was judged by itself, not by a shortened one.

    Attributes:
        record: What came of it; the number is that of its trial.
        config: Complete; trains to these numbers.
        refined: Losses of the validation images, each at the temperature that suits all best; empty for a short trial
            that stands in where there was no time for a full one.
    """

    record: Record
    config: Config
    refined: tuple[float, ...] = field(default=(), repr=False)


def value_of(record: Record) -> float:
    """What is minimised; infinity where a trial came to no end."""
    return float("inf") if record.value is None else record.value


def best_of(records: Iterable[Record]) -> Record | None:
    """The complete one with the least value, the earliest of equals; None where none is complete."""
    complete = [record for record in records if record.state == "complete"]
    return min(complete, key=value_of) if complete else None


def write_final(file: Path, final: Final) -> None:
    """Keep a full training's result."""
    config = final.config.to_toml()
    write_json(file, {"record": final.record.to_json(), "config": config, "refined": list(final.refined)})


def read_finals(folder: Path) -> list[Final]:
    """All that were kept, by number; [] where there is no folder."""
    values = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    return [
        Final(
            Record(**value["record"]),
            Config.model_validate(tomllib.loads(value["config"])),
            tuple(value["refined"]),
        )
        for value in values
    ]


def begun_with(path: Path) -> dict[str, Any] | None:
    """What the search in a folder was begun with; None where there is none.

    Raises:
        UsageError: Something else is there.
    """
    if (path / SEARCH).is_file():
        value: dict[str, Any] = json.loads((path / SEARCH).read_text(encoding="utf-8"))
        return value
    if path.is_file() or (path.is_dir() and {file.name for file in path.iterdir()} - {".lock", BASE}):
        raise UsageError(f"{path} is there and holds no search; nothing is overwritten. Choose another --out.")
    return None


def refuse_other(known: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """Raise `RunError` where a search was begun with something else; what is not known yet passes."""
    names = {
        "split": "the images, their labels or their parts",
        "config": "the base configuration",
        "fixed": "the fixed settings",
        "metric": "the metric",
        "versions": "the versions of what computes",
    }
    changed = [what for key, what in names.items() if key in now and known.get(key) != now[key]]
    if changed:
        raise RunError(
            f"{path} holds a search that was begun otherwise: {' and '.join(changed)} differ. Its trials cannot be "
            "compared with new ones. Choose another --out, or go on as it was begun: --resume alone, without DATA."
        )

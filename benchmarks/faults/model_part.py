"""Damaged files of runs and exports, which a command then loads to predict, to verify or to report."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.damage import damage, damage_json
from faults.forks import Ended, run_command
from faults.outcomes import Outcome
from faults.training import Part, Place

_SECONDS, _GROWTH_MB, _SPACE = 5, 512, 8 * 2**30


@dataclass(frozen=True)
class Damaged:
    """A file of a folder that is damaged, and the command that reads it; whether its hash is known, or `{}`'s."""

    case: str
    file: str
    words: tuple[str, ...]
    has_hash: bool = False


_PREDICT = ("predict", "{folder}", "{images}", "--csv", "{answers}")
_RUN = [
    *(Damaged("weights of a run", "model.safetensors", _PREDICT, has_hash=True) for _ in range(2)),
    *(Damaged("model.json of a run", "model.json", _PREDICT) for _ in range(3)),
    *(Damaged("other files of a run", name, ("report", "{folder}")) for name in
      ("metrics.json", "predictions.csv", "history.csv", "split.csv", "config.toml", "source.json", "head_path.csv")),
]  # fmt: skip


def _export(form: str, *files: str) -> list[Damaged]:
    verify = ("verify", "{folder}")
    return [
        *(Damaged(f"graph of {form}", name, _PREDICT, has_hash=True) for name in files),
        Damaged("export.json", "export.json", _PREDICT),
        Damaged("export.json", "export.json", verify),
        Damaged("golden images", "golden/0.png", verify, has_hash=True),
        Damaged("golden images", "golden/expected.json", verify),
    ]


_EXPORTS = {"onnx": _export("onnx", "model.onnx"), "openvino": _export("openvino", "model.xml", "model.bin")}


class Models(Part):
    """A copy of a folder in which one file is damaged must be refused, or answer as before where its hash is known."""

    name, title, count = "models", "Damaged models", 500

    def outcomes(self, place: Place, done: Sequence[Outcome], count: int) -> Iterator[Outcome]:
        """See `Part`."""
        known, sources = {outcome.number for outcome in done}, _sources(place)
        cases = [("run", one) for one in _RUN] + [(form, one) for form, own in _EXPORTS.items() for one in own]
        expected = dict[tuple[str, tuple[str, ...]], str]()
        for number in range(count):
            if number in known:
                continue
            form, case = cases[number % len(cases)]
            if (form, case.words) not in expected:
                ended, answers = _load(place, sources[form], case, None)
                if ended.code:
                    raise RuntimeError(f"{form}, undamaged: {ended.text}")
                expected[form, case.words] = answers
            yield _outcome(place, number, sources[form], case, expected[form, case.words])


def _sources(place: Place) -> dict[str, Path]:
    """The undamaged folders: a run and its exports."""
    run, exports = place.training.run, place.folder / "exports"
    for form in _EXPORTS:
        if not (exports / form).exists():
            ended = place.forks.call(run_command, ["export", str(run), "--to", form, "--out", str(exports)])
            if ended.code:
                raise RuntimeError(ended.text)
    return {"run": run} | {form: exports / form for form in _EXPORTS}


def _load(place: Place, source: Path, case: Damaged, draw: random.Random | None) -> tuple[Ended, str]:
    """Damage a file of a copy, unless `draw` is None, and run the command; returns its end and the answers."""
    with place.temporary() as temporary:
        folder, answers = temporary / "copy", temporary / "answers.csv"
        shutil.copytree(source, folder)
        file = folder / case.file
        if draw is not None:
            content = file.read_bytes()
            others = [other.read_bytes() for other in folder.iterdir() if other.is_file() and other.stat().st_size]
            by_value = file.suffix == ".json" and draw.random() < 0.6
            file.write_bytes(damage_json(draw, content) if by_value else damage(draw, content, others))
        places = {"folder": folder, "images": place.training.data, "answers": answers}
        words = [word.format(**places) for word in case.words]
        cache = {"REGRAFT_CACHE": str(place.training.cache)}
        ended = place.forks.call(run_command, words, environment=cache, room=_SPACE, timeout=60)
        return ended, answers.read_text(errors="replace") if answers.exists() else ""


def _outcome(place: Place, number: int, source: Path, case: Damaged, expected: str) -> Outcome:
    ended, answers = _load(place, source, case, random.Random(f"model {number}"))
    wrong = ended.problem
    if not wrong and ended.seconds > _SECONDS:
        wrong = f"it took {ended.seconds:.1f} s"
    if not wrong and ended.grown_mb > _GROWTH_MB:
        wrong = f"memory grew by {ended.grown_mb:.0f} MB"
    if not wrong and not ended.code and case.has_hash:
        wrong = "it was not refused"
    facts = {"refused": ended.code != 0, "other_answers": not ended.code and answers != expected,
             "grown_mb": ended.grown_mb}  # fmt: skip
    return Outcome(number, case.case, ended.seconds, wrong and f"{source.name}/{case.file}: {wrong}", facts)

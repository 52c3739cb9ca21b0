"""System calls that change files fail: those of a run, of an export and of the cache, one after the other."""

from __future__ import annotations

import errno
import random
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

from faults.forks import Ended, Fault, run_command
from faults.outcomes import Outcome
from faults.training import Part, Place, half_written

_ERRORS = ("ENOSPC", "EIO", "EACCES")
#: Whether the calls after the failing one fail, too, as on a full disk, or only that one.
_HOW = {"one call": False, "all calls from one on": True}


class Work(ABC):
    """Work that changes files below one of the folders in a fault's own folder."""

    #: Names of the part of a case, and of the folder whose calls fail.
    name: str
    below: str

    def __init__(self, place: Place) -> None:
        """Store where the work is done."""
        self.place, self.training = place, place.training

    @abstractmethod
    def begin(self, folder: Path, fault: Fault) -> Ended:
        """Do the work."""

    @abstractmethod
    def state(self, folder: Path) -> str:
        """What is wrong with the state that a failure has left; "" if it is the old or the new one."""

    @abstractmethod
    def finish(self, folder: Path) -> Ended:
        """Do the work again, or continue it, without a fault."""

    @abstractmethod
    def difference(self, folder: Path) -> str:
        """In what the result is not that of undisturbed work."""


class RunWork(Work):
    """A training; its own files fail, and the cache is whole."""

    name, below = "run", "run"

    def begin(self, folder: Path, fault: Fault) -> Ended:
        """See `Work`."""
        return self.place.train(self.training.words(folder / "run"), self.training.cache, fault=fault)

    def state(self, folder: Path) -> str:
        """See `Work`."""
        return half_written(folder / "run") if (folder / "run").exists() else ""

    def finish(self, folder: Path) -> Ended:
        """See `Work`."""
        return self.place.train(self.training.continue_words(folder / "run"), self.training.cache)

    def difference(self, folder: Path) -> str:
        """See `Work`."""
        return self.training.difference(folder / "run")


class CacheWork(RunWork):
    """A training; the files of an empty cache fail, and must be of use for the next training."""

    name, below = "cache", "cache"

    def begin(self, folder: Path, fault: Fault) -> Ended:
        """See `Work`."""
        return self.place.train(self.training.words(folder / "run"), folder / "cache", fault=fault)

    def finish(self, folder: Path) -> Ended:
        """See `Work`; a new training that reads what is in the cache."""
        shutil.rmtree(folder / "run", ignore_errors=True)
        return self.place.train(self.training.words(folder / "run"), folder / "cache")


class ExportWork(Work):
    """An export of the undisturbed run to a format."""

    below = "exports"

    def __init__(self, place: Place, form: str) -> None:
        """Store where the work is done."""
        super().__init__(place)
        self.form, self.name = form, f"export to {form}"

    def begin(self, folder: Path, fault: Fault | None) -> Ended:
        """See `Work`."""
        words = ["export", str(self.training.run), "--to", self.form, "--out", str(folder / "exports")]
        return self.place.forks.call(run_command, words, fault=fault)

    def state(self, folder: Path) -> str:
        """See `Work`: there is no export, or a whole one."""
        if not (folder / "exports").exists():
            return ""
        if not (folder / "exports" / self.form).exists():
            return half_written(folder / "exports")
        return self.difference(folder)

    def finish(self, folder: Path) -> Ended:
        """See `Work`."""
        if (folder / "exports" / self.form).exists():  # accepted before the failure
            return Ended(0, 0.0, "")
        return self.begin(folder, None)

    def difference(self, folder: Path) -> str:
        """See `Work`."""
        if wrong := half_written(folder / "exports"):
            return wrong
        ended = self.place.forks.call(run_command, ["verify", str(folder / "exports" / self.form)])
        return ended.problem or (f"not verified: {ended.text[-300:]}" if ended.code else "")


def _works(place: Place) -> dict[str, Work]:
    every = (RunWork(place), CacheWork(place), ExportWork(place, "onnx"), ExportWork(place, "openvino"))
    return {one.name: one for one in every}


class Errors(Part):
    """Every call of each work fails with each error, alone and with all calls after it, in a random order."""

    name, title, count = "errors", "Failing calls", 0

    def __init__(self, names: Sequence[str] = ("run", "cache", "export to onnx", "export to openvino")) -> None:
        """Store which work fails."""
        self.names = names

    def outcomes(self, place: Place, done: Sequence[Outcome], count: int) -> Iterator[Outcome]:
        """See `Part`."""
        known, works = {outcome.number for outcome in done}, _works(place)
        plan = _plan(place, [works[name] for name in self.names])
        for number, (name, error, how, first) in enumerate(plan[: count or len(plan)]):
            if number in known:
                continue
            with place.temporary() as folder:
                seconds, wrong = _cause(works[name], folder, error, how, first)
            calls = sum(case[:3] == (name, error, how) for case in plan)
            yield Outcome(number, f"{name}: {error}, {how}", seconds, wrong, {"calls": calls})


def _plan(place: Place, works: Sequence[Work]) -> list[tuple[str, str, str, int]]:
    """Every work, error, way to fail and number of the call, in a random order that the next call finds again."""
    cases = list[tuple[str, str, str, int]]()
    for one in works:
        trace = place.folder / f"calls of {one.name}.txt"
        if not trace.exists():
            with place.temporary() as folder:
                ended = one.begin(folder, Fault(str(folder / one.below), 0, trace=f"{trace}.partial"))
            if ended.code or not ended.calls:
                raise RuntimeError(f"{one.name}: {ended.calls} calls, {ended}")
            Path(f"{trace}.partial").rename(trace)
        firsts = range(1, len(trace.read_text().splitlines()) + 1)
        cases += [(one.name, error, how, first) for error in _ERRORS for how in _HOW for first in firsts]
    random.Random("errors").shuffle(cases)
    return cases


def _cause(one: Work, folder: Path, error: str, how: str, first: int) -> tuple[float, str]:
    """Let a call fail; returns the seconds of the disturbed work, and what is wrong."""
    fault = Fault(str(folder / one.below), first, getattr(errno, error), _HOW[how])
    ended = one.begin(folder, fault)
    wrong = ended.problem or one.state(folder)
    if not wrong and not ended.code:  # what failed was of no importance
        wrong = one.difference(folder)
    elif not wrong:
        again = one.finish(folder)
        wrong = f"the next one fails: {again.text[-600:]}" if again.code else one.difference(folder)
    return ended.seconds, f"call {first}, {ended.failed}: {wrong}; said {ended.text[-300:]!r}" if wrong else ""

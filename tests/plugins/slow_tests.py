"""Which tests are slow: `pytest --quick` leaves them out, `--slow` runs no others, `--write-slow` measures them anew.

`slow_tests.txt` has a line for each: a test function, or a file if all of its functions are slow. A function is slow if
its cases, with their share of the time of the fixtures that they share with other tests, take longer than `LIMIT`.
`--write-slow` runs all tests, as `python tests/gate.py write-slow` does, and writes the list.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from time import perf_counter  # as it is here: some tests replace that of the module
from typing import Any, cast

import pytest

LIST = Path(__file__).with_name("slow_tests.txt")
#: Seconds on two cores without AVX-512, with a test on each.
LIMIT = 2.0

_own_seconds = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options that choose tests by their time."""
    group = parser.getgroup("slow tests", f"tests of {LIST.name}")
    group.addoption("--quick", action="store_true", help="leave out the slow tests")
    group.addoption("--slow", action="store_true", help="run the slow tests alone")
    group.addoption("--write-slow", action="store_true", help="measure which tests are slow, and write the list")


def pytest_configure(config: pytest.Config) -> None:
    """Measure, if it is asked for."""
    chosen = [name for name in ("quick", "slow", "write_slow") if config.getoption(name)]
    if len(chosen) > 1:
        raise pytest.UsageError(f"--{chosen[0]} and --{chosen[1]} exclude each other".replace("_", "-"))
    if config.getoption("write_slow"):
        if config.args_source is not config.ArgsSource.TESTPATHS and not hasattr(config, "workerinput"):
            raise pytest.UsageError("--write-slow measures all tests: name no files")
        config.pluginmanager.register(_Watch(), "watch-times")
        if not hasattr(config, "workerinput"):
            config.pluginmanager.register(_Times(), "collect-times")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the slow tests, or the others."""
    if not (config.getoption("quick") or config.getoption("slow")):
        return
    slow = set(LIST.read_text(encoding="utf-8").split())
    wanted, others = list[pytest.Item](), list[pytest.Item]()
    for item in items:
        listed = _function(item.nodeid) in slow or _file(item.nodeid) in slow
        (wanted if listed == config.getoption("slow") else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = wanted


def _function(nodeid: str) -> str:
    return nodeid.partition("[")[0]


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


class _Watch:
    """Adds to the reports of a test how long its own fixtures took, and those that it shares."""

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, Any, Any]:
        started = perf_counter()
        result = yield
        seconds, item = perf_counter() - started, request._pyfuncitem
        if fixturedef.scope == "function":
            item.stash[_own_seconds] = item.stash.get(_own_seconds, 0.0) + seconds
        else:
            item.user_properties.append(("made", (_name(fixturedef), seconds)))
        return result

    def pytest_runtest_teardown(self, item: pytest.Function) -> None:
        definitions = [found[-1] for found in item._fixtureinfo.name2fixturedefs.values()]
        shared = [_name(definition) for definition in definitions if definition.scope != "function"]
        item.user_properties += [("own", item.stash.get(_own_seconds, 0.0)), ("shared", shared)]


def _name(fixturedef: pytest.FixtureDef[Any]) -> str:
    return f"{fixturedef.baseid}::{fixturedef.argname}"


class _Times:
    """Collects the reports of all workers, and writes the list at the end."""

    def __init__(self) -> None:
        self.seconds = defaultdict[str, float](float)
        self.made = defaultdict[str, float](float)
        self.shared = defaultdict[str, list[str]](list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        function = _function(report.nodeid)
        if report.when != "setup":
            self.seconds[function] += report.duration
        if report.when == "teardown":
            for kind, value in cast("list[tuple[str, Any]]", report.user_properties):
                if kind == "own":
                    self.seconds[function] += float(value)
                elif kind == "made":
                    name, seconds = value
                    self.made[name] += seconds
                elif kind == "shared":
                    for name in value:
                        self.shared[name].append(function)

    def pytest_sessionfinish(self) -> None:
        for name, seconds in self.made.items():
            for function in self.shared[name]:
                self.seconds[function] += seconds / len(self.shared[name])
        functions = defaultdict[str, list[str]](list)
        for function in self.seconds:
            functions[_file(function)].append(function)
        lines = list[str]()
        for file, names in functions.items():
            slow = [name for name in names if self.seconds[name] > LIMIT]
            lines += [file] if len(slow) == len(names) else slow
        LIST.write_text("".join(f"{line}\n" for line in sorted(lines)), encoding="utf-8")
        quick, total = sum(s for s in self.seconds.values() if s <= LIMIT), sum(self.seconds.values())
        print(f"\n{LIST.name}: {len(lines)} lines; the other tests took {quick:.0f} of {total:.0f} seconds")

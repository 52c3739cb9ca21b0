"""Run tasks on a Ray cluster, each in a process with its own CPUs and GPUs.

The processes are Ray actors, so that one starts once and may keep a model between tasks. Each runs one task at a
time, and no task waits anywhere but in the caller's `next_task`. If a process or its node dies, its task runs again
elsewhere.
"""

from __future__ import annotations

import pickle
import platform
import queue
import socket
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from regraft.cluster.executor import Cluster, Task
from regraft.errors import ClusterError, RegraftError, UsageError
from regraft.resources import limit_threads

#: CPUs of a task where nothing else says how many.
_CPUS = 4
#: Deaths of its process after which a task has failed: it may be the task that kills it.
_MAX_DEATHS = 3
#: Seconds between two looks at the nodes; for which a poll waits for events; in which the first process must start.
_LOOK_SECONDS, _POLL_SECONDS, _START_SECONDS = 5.0, 10.0, 180.0
#: Seconds between two reports of progress; a training has thousands of batches.
_PROGRESS_SECONDS = 0.2


class RayExecutor:
    """Runs tasks on the cluster that this process is connected to, `ray` being the module."""

    def __init__(self, ray: Any, cluster: Cluster) -> None:
        """Decide what a task gets; raises `UsageError` if no node has that much."""
        self._ray = ray
        self._cpus, self._gpus = resources_of_task(ray, cluster)
        self._actor_class = ray.remote(_Worker)
        self._slots: list[_Slot] = []

    @property
    def slots(self) -> int:
        """Number of tasks for which the cluster has CPUs and GPUs now."""
        return room_for(self._ray, self._cpus, self._gpus)

    def share(self, value: Any) -> Any:
        """A reference to the value in the cluster's object store."""
        return self._ray.put(value)

    def close(self) -> None:
        """End all processes."""
        for slot in self._slots:
            self._kill(slot)
        self._slots = []

    def run(self, next_task: Callable[[], Task | None]) -> Iterator[tuple[Task, Future[Any]]]:
        """Run tasks, as `Executor.run`; raises `ClusterError` if no process starts, or with other versions."""
        lost: list[Task] = []
        deaths: Counter[Task] = Counter()
        looked, capacity, began = 0.0, 0, time.monotonic()
        try:
            while True:
                if time.monotonic() - looked > _LOOK_SECONDS:
                    looked, capacity = time.monotonic(), self.slots
                while (slot := self._idle()) is not None or len(self._slots) < capacity:
                    task = lost.pop() if lost else next_task()
                    if task is None and slot is not None:
                        task = self._take_back()
                    if task is None:
                        break
                    slot = slot or self._new_slot()
                    slot.task = task
                    if slot.is_ready:
                        self._start(slot)
                if not (busy := [slot for slot in self._slots if slot.task]):
                    return
                for slot in self._wait(busy):
                    try:
                        if not slot.is_ready:
                            self._make_ready(slot)
                        elif slot.poll is not None and self._is_done(slot.poll):
                            self._report(slot)
                        elif (future := self._finish(slot)) is not None:
                            task, slot.task = slot.task, None
                            assert task is not None
                            yield task, future
                    except self._ray.exceptions.RayError as error:
                        task = slot.task
                        self._slots.remove(slot)
                        self._kill(slot)
                        assert task is not None
                        deaths[task] += 1
                        if deaths[task] < _MAX_DEATHS:
                            task.reporter.on_message(f"{task.name}: its process or node died, so it starts again.")
                            lost.append(task)
                            looked = 0.0
                            continue
                        failed: Future[Any] = Future()
                        failed.set_exception(
                            ClusterError(f"{task.name}: its process died {_MAX_DEATHS} times: {error}")
                        )
                        yield task, failed
                if any(slot.is_ready for slot in self._slots):
                    began = time.monotonic()
                elif time.monotonic() - began > _START_SECONDS:
                    raise ClusterError(
                        f"No process started on the cluster within {_START_SECONDS:.0f} s. A task needs {self._cpus} "
                        f"CPUs and {self._gpus} GPUs; `ray status` shows what is free."
                    )
        finally:  # Ctrl-C, an error, or a caller that has enough
            for slot in [slot for slot in self._slots if slot.task]:
                self._slots.remove(slot)
                self._kill(slot)

    def _take_back(self) -> Task | None:
        """The task of a process that has not started, perhaps because others use its CPUs, and now ends."""
        late = next((slot for slot in self._slots if slot.task and not slot.is_ready), None)
        if late is None:
            return None
        self._slots.remove(late)
        self._kill(late)
        return late.task

    def _idle(self) -> _Slot | None:
        return next((slot for slot in self._slots if slot.task is None), None)

    def _new_slot(self) -> _Slot:
        options = {
            "num_cpus": self._cpus,
            "num_gpus": self._gpus,
            "max_concurrency": 3,
            "scheduling_strategy": "SPREAD",
        }
        actor = self._actor_class.options(**options).remote(self._cpus)
        self._slots.append(slot := _Slot(actor, pending=actor.describe.remote()))
        return slot

    def _wait(self, busy: list[_Slot]) -> list[_Slot]:
        refs = {ref: slot for slot in busy for ref in (slot.poll, slot.pending) if ref is not None}
        done, _ = self._ray.wait(list(refs), num_returns=1, timeout=_LOOK_SECONDS)
        return list(dict.fromkeys(refs[ref] for ref in done))

    def _is_done(self, ref: Any) -> bool:
        return bool(self._ray.wait([ref], timeout=0)[0])

    def _make_ready(self, slot: _Slot) -> None:
        try:
            there = self._ray.get(slot.pending)
        except self._ray.exceptions.RayTaskError as error:
            raise ClusterError(f"regraft cannot be imported on the cluster's nodes: {error}") from error
        here = describe_versions()
        if other := [f"{name} {there[name]} instead of {here[name]}" for name in here if there[name] != here[name]]:
            raise ClusterError(
                f"The node {there['node']} has {', '.join(other)}. Install the same versions on every node and here."
            )
        self._start(slot)

    def _start(self, slot: _Slot) -> None:
        assert slot.task is not None
        slot.is_ready, slot.number = True, slot.number + 1
        slot.pending = slot.actor.run.remote(slot.number, slot.task.function, *slot.task.arguments)
        slot.poll = slot.actor.events.remote()

    def _report(self, slot: _Slot) -> None:
        """Pass on what the task has reported, and poll again unless it has ended."""
        assert slot.task is not None
        events, slot.poll = self._ray.get(slot.poll), None
        for event in events:
            if event is None:
                return
            name, arguments, waits = event
            answer = None
            try:
                getattr(slot.task.reporter, name)(*arguments)
            except Exception as error:
                answer = error
            if waits or answer is not None:
                slot.actor.answer.remote(slot.number, answer)
        slot.poll = slot.actor.events.remote()

    def _finish(self, slot: _Slot) -> Future[Any] | None:
        """The result of a task; None if something that it has reported comes first."""
        if not self._is_done(slot.pending):
            return None
        future: Future[Any] = Future()
        try:
            is_error, value = self._ray.get(slot.pending)
        except self._ray.exceptions.RayTaskError as error:  # arguments or a result that cannot be pickled
            if slot.poll is not None:  # it may not have begun, and then no last event comes
                self._slots.remove(slot)
                self._kill(slot)
            is_error, value = True, error
        else:
            if slot.poll is not None:  # its last event comes at once
                self._report(slot)
                return None
        slot.pending = None
        (future.set_exception if is_error else future.set_result)(value)
        return future

    def _kill(self, slot: _Slot) -> None:
        with suppress(Exception):  # it is dead, or the cluster is
            self._ray.kill(slot.actor, no_restart=True)


def resources_of_task(ray: Any, cluster: Cluster) -> tuple[int, int]:
    """CPUs and GPUs that a task gets; raises `UsageError` if no node has as many."""
    nodes = _nodes(ray)
    gpus = int(max(node.get("GPU", 0) for node in nodes))
    largest = int(max(node.get("CPU", 0) for node in nodes))
    of_task = min(1, gpus) if cluster.gpus is None else cluster.gpus
    shared = largest // gpus if of_task and gpus else min(_CPUS, largest)
    cpus = max(1, shared) if cluster.cpus is None else cluster.cpus
    if cpus < 1 or of_task < 0 or not _capacity(nodes, cpus, of_task):
        raise UsageError(
            f"A task gets {cpus} CPUs and {of_task} GPUs; expected at least 1 and 0, and a node that has as many. The "
            f"largest node has {largest} and {gpus}."
        )
    return cpus, of_task


def room_for(ray: Any, cpus: int, gpus: int) -> int:
    """Number of tasks with these CPUs and GPUs that the cluster's nodes can run at once, at least 1."""
    return max(1, _capacity(_nodes(ray), cpus, gpus))


def _nodes(ray: Any) -> list[dict[str, float]]:
    """What each node has of each resource."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]] or [{}]


def _capacity(nodes: list[dict[str, float]], cpus: int, gpus: int) -> int:
    """Number of tasks that fit on the nodes at once."""
    fitting = [int(node.get("CPU", 0) // cpus) for node in nodes]
    if gpus:
        fitting = [min(count, int(node.get("GPU", 0) // gpus)) for count, node in zip(fitting, nodes, strict=True)]
    return sum(fitting)


@dataclass(eq=False)
class _Slot:
    """A process on the cluster: what it is to answer (`pending`), and the poll of its task's reports."""

    actor: Any
    pending: Any
    poll: Any = None
    task: Task | None = None
    number: int = 0  # of the task
    is_ready: bool = False


def describe_versions() -> dict[str, str]:
    """Versions that must be the same here and on the nodes."""
    return {"Python": platform.python_version(), **{name: version(name) for name in ("regraft", "torch")}}


class _Worker:
    """The actor. `run`, `events` and `answer` run in threads of their own."""

    def __init__(self, cpus: int) -> None:
        limit_threads(cpus)
        self._number = 0
        self._events: queue.SimpleQueue[tuple[str, tuple[Any, ...], bool] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def describe(self) -> dict[str, str]:
        """The versions of this node, and its name."""
        return {**describe_versions(), "node": socket.gethostname()}

    def run(self, number: int, function: Callable[..., Any], *arguments: Any) -> tuple[bool, Any]:
        """Run a task: False and its result, or True and its exception."""
        self._number, self._answers = number, queue.SimpleQueue()
        try:
            return False, function(*arguments, reporter=_RemoteReporter(self._events, self._answers))
        except Exception as error:
            return True, _picklable(error)
        finally:
            self._events.put(None)

    def events(self) -> list[tuple[str, tuple[Any, ...], bool] | None]:
        """Wait for reports of the task, for some seconds; None is the last."""
        events = []
        with suppress(queue.Empty):
            events.append(self._events.get(timeout=_POLL_SECONDS))
            while True:
                events.append(self._events.get_nowait())
        return events

    def answer(self, number: int, error: Exception | None) -> None:
        """What the caller's reporter has raised, or None, for the task with this number."""
        if number == self._number:  # not for one that has ended
            self._answers.put(error)


class _RemoteReporter:
    """Has every method of the caller's reporter; one waits until it was called there, all but that of progress."""

    def __init__(self, events: Any, answers: Any) -> None:
        self._events, self._answers, self._last = events, answers, 0.0

    def on_progress(self, name: str, done: int, total: int, detail: str = "") -> None:
        """Send the progress, unless that happened a moment ago, and raise what an earlier report has raised."""
        with suppress(queue.Empty):
            self._raise(self._answers.get_nowait())
        now = time.monotonic()
        if done >= total or now > self._last + _PROGRESS_SECONDS:
            self._last = now
            self._events.put(("on_progress", (name, done, total, detail), False))

    def __getattr__(self, name: str) -> Callable[..., None]:
        if not name.startswith("on_"):
            raise AttributeError(name)

        def report(*arguments: Any) -> None:
            self._events.put((name, arguments, True))
            self._raise(self._answers.get())

        return report

    def _raise(self, error: Exception | None) -> None:
        if error is not None:
            raise error


def _picklable(error: Exception) -> Exception:
    """The exception with its traceback as a note; one that cannot be sent becomes a similar one that can."""
    if not isinstance(error, RegraftError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # another library's exception may fail in any way when it is pickled
        if isinstance(error, RegraftError):
            return RegraftError(str(error))
        return RuntimeError("\n".join([f"{type(error).__name__}: {error}", *error.__notes__]))
    return error

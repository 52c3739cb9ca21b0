"""Tasks in this process."""

from __future__ import annotations

from typing import Any

import pytest

from regraft.cluster.executor import InProcess, Task, open_executor


def test_each_task_runs_when_it_is_asked_for() -> None:
    events: list[Any] = []

    def work(number: int, *, reporter: Any) -> int:
        events.append(f"run {number}")
        if number == 1:
            raise ValueError("one")
        return reporter + number

    waiting = iter(range(3))

    def next_task() -> Task | None:
        if (number := next(waiting, None)) is None:
            return None
        events.append(f"ask {number}")
        return Task(str(number), work, (number,), 10)

    with open_executor(None) as executor:
        assert isinstance(executor, InProcess)
        ended = {task.name: future for task, future in executor.run(next_task)}
    assert events == ["ask 0", "run 0", "ask 1", "run 1", "ask 2", "run 2"]
    assert [ended["0"].result(), ended["2"].result()] == [10, 12]
    with pytest.raises(ValueError, match="one"):
        ended["1"].result()


def test_ctrl_c_is_no_result() -> None:
    def work(*, reporter: Any) -> None:
        raise KeyboardInterrupt

    tasks = iter([Task("a", work, (), None)])
    with pytest.raises(KeyboardInterrupt):
        list(InProcess().run(lambda: next(tasks, None)))

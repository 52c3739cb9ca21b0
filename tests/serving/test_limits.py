"""Limits must not contradict each other."""

from __future__ import annotations

import pytest

from regraft.errors import UsageError
from regraft.serving.limits import Limits


def test_contradicting_limits_are_refused() -> None:
    for wrong in ({"images": 300}, {"body_bytes": 2**40}, {"batch": 0}, {"deadline_seconds": float("nan")}):
        with pytest.raises(UsageError, match=r"(?i)expected"):
            Limits(**wrong)  # type: ignore[arg-type]

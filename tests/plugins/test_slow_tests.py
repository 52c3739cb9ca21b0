"""`slow_tests.txt` names tests that exist: under a new name a slow test would be among the quick ones."""

from __future__ import annotations

from pathlib import Path

from slow_tests import LIST

ROOT = Path(__file__).parent.parent.parent


def test_the_listed_tests_exist() -> None:
    gone = []
    for line in LIST.read_text(encoding="utf-8").split():
        file, _, function = line.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8") if (ROOT / file).is_file() else ""
        if f"def {function.rpartition('::')[2] or 'test_'}" not in text:
            gone.append(line)
    assert not gone, f"`python tests/gate.py write-slow` writes {LIST.name} anew"

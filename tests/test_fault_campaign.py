"""A tiny campaign of faults; `benchmarks/faults` is the whole one."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.clock_part import Clock, negative_times
from faults.damage import damage, damage_json
from faults.error_part import Errors
from faults.forks import Fault
from faults.image_part import Images, damaged_image, encoded_images
from faults.kill_part import Kills
from faults.model_part import Models
from faults.outcomes import Journal, Outcome, rows_of
from faults.server_part import Load, Sigterm, growth_of
from faults.training import Part, Place, half_written, prepared


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with prepared(tmp_path_factory.mktemp("faults") / "campaign") as started:
        yield started


@pytest.mark.parametrize(
    ("part", "count"),
    [
        (Kills(), 2), (Errors(["run"]), 2), (Clock(servers=0), 1), (Images(), 90), (Models(), 6),
        (Sigterm(), 1), (Load(0.02, measured=0.3), 1),
    ],
    ids=lambda value: value.name if isinstance(value, Part) else None,
)  # fmt: skip
def test_faults_leave_nothing_wrong(place: Place, part: Part, count: int) -> None:
    found = list(part.outcomes(place, [], count))
    assert len(found) >= count
    assert [outcome.wrong for outcome in found if outcome.wrong] == []
    assert list(part.outcomes(place, found, count)) == []


def test_a_failing_call_is_seen(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = place.train(place.training.words(out), place.training.cache, fault=Fault(str(out), 3, errno.ENOSPC, True))
    assert (ended.code, ended.problem) == (1, "")
    assert "No space left on device" in ended.text
    assert ended.failed.startswith(("open", "write", "fsync", "chmod"))
    assert ended.calls >= 3


def test_half_a_file_and_another_result_are_seen(place: Place, tmp_path: Path) -> None:
    run = place.training.run
    assert half_written(run) == ""
    assert place.training.difference(run) == ""
    for name in ("metrics.json", "model.safetensors", "report.html", "split.csv", "config.toml"):
        content = (run / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        assert half_written(tmp_path).startswith(f"half written: {name}")
        (tmp_path / name).unlink()
    (tmp_path / ".hidden.partial").write_text("{")
    assert half_written(tmp_path) == ""
    assert place.training.difference(tmp_path).startswith("without ")
    metrics = json.loads((run / "metrics.json").read_text())
    (tmp_path / "metrics.json").write_text(json.dumps({"time": {**metrics["time"], "train_seconds": -1.0}}))
    (tmp_path / "history.csv").write_text("epoch,seconds\n1,-0.5\n")
    assert negative_times(tmp_path) == "negative times: train_seconds, epoch 1"


def test_damage_changes_and_is_the_same_again() -> None:
    bases = encoded_images()
    assert {form for form, *_ in bases} >= {"JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF", "JXL", "DICOM", "NPY"}
    for number in range(3 * len(bases)):
        form, _, content = damaged_image(bases, number)
        assert (form, content) == damaged_image(bases, number)[::2]
        assert content != bases[number % len(bases)][2]
    description = json.dumps({"a": {"b": [1, 2, 3]}, "c": "text"}).encode()
    assert len({damage_json(random.Random(seed), description) for seed in range(20)}) > 5
    assert damage(random.Random(0), b"x" * 50, [b"y" * 50]) != b"x" * 50


def test_a_journal_goes_on_and_rows_count(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "part")
    journal.add(Outcome(0, "one", 1.0, "", {"grown_mb": 3.0, "refused": True}))
    journal.add(Outcome(1, "one", 2.0, "wrong", {"grown_mb": 5.0, "refused": False}))
    assert Journal(tmp_path, "part").outcomes == journal.outcomes
    seconds, facts = rows_of(journal.outcomes)
    assert seconds == {"one": [1.0, 2.0]}
    assert facts == {"one": {"faults": 2, "right": 1, "grown_mb": 5.0, "refused": 1}}


def test_growth_is_that_after_the_start() -> None:
    assert growth_of([10.0, *[100.0] * 29]) == (100.0, 100.0, 0.0)
    assert growth_of([*[100.0] * 25, *[110.0] * 5])[2] == pytest.approx(0.1)

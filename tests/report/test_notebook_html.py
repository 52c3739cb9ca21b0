from __future__ import annotations

from fragments import SCRIPT, check_fragment

from regraft.report.notebook_html import progress
from regraft.training.callbacks import Epoch


def test_bars_messages_and_epochs_are_shown() -> None:
    row = Epoch("head", 1, 0.5, 0.8, None, None, None, 1e-3, 1.0, 100.0)
    html = progress({SCRIPT: (1, 4, SCRIPT)}, [SCRIPT], [row])
    check_fragment(html)
    assert '<progress value="1" max="4">' in html
    assert "1 of 4" in html
    assert "head 1" in html
    assert "&lt;script&gt;" in html


def test_long_histories_are_cut() -> None:
    rows = [Epoch("finetune", n, 0.5, 0.8, 0.4, 0.9, 0.9, 1e-3, 1.0, 100.0) for n in range(1, 101)]
    html = progress({}, [str(n) for n in range(100)], rows)
    assert "finetune 100" in html
    assert "finetune 50<" not in html

"""The documents about a run that people complete: their points, and names in them that would be markup."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from markdown_parts import kinds, table_rows, texts
from run_documents import check_points

from regraft.errors import RunError
from regraft.report.annex_iv import annex_iv
from regraft.report.datasheet import datasheet
from regraft.report.html import MARK
from regraft.report.model_card import model_card
from regraft.report.record import ClassificationRecord
from regraft.text import one_line

Make = Callable[..., ClassificationRecord]
DOCUMENTS = {"model-card": model_card, "datasheet": datasheet, "annex-iv": annex_iv}
NOTHING = {"metrics": {}, "history": (), "predictions": None, "evaluations": {}, "suspects": ()}


def test_every_point_is_there_once_whatever_the_run_knows(make_record: Make) -> None:
    for record in (
        make_record(("ant", "bee"), each=50),
        make_record(("ant", "bee"), parts=("val",)),
        make_record(("ant", "bee"), **NOTHING),
        make_record(("ant", "bee"), counts={}, source="", hashes={}, config=""),
    ):
        check_points({name: make(record) for name, make in DOCUMENTS.items()})


@pytest.mark.parametrize("name", DOCUMENTS)
def test_names_change_nothing_but_text(name: str, make_record: Make, hostile_names: tuple[str, ...]) -> None:
    names = (*hostile_names, f"{MARK} x")
    make, places = DOCUMENTS[name], [(f"{one}/{one}.png", one) for one in names]
    plain = make_record(tuple("abcdefghijklm"), name="x", source="/data/x")
    hostile = make_record(names, name=names[4], source="/data/" + names[0])

    def with_files(record: ClassificationRecord, bad: list[tuple[str, str]]) -> str:
        data = {**record.metrics["data"], "bad": [{"path": path, "reason": reason} for path, reason in bad]}
        return make(replace(record, metrics={**record.metrics, "data": data}))

    text = with_files(hostile, places)
    assert kinds(text) == kinds(with_files(plain, [("a/b.png", "c")] * len(places)))
    cells = {cell for row in table_rows(text) for cell in row}
    assert {one_line(one).strip() for one in names if len(one) < 60} <= cells
    assert "<script" not in text
    assert "/data" not in text


def test_what_an_earlier_version_did_not_record_is_asked_for(make_record: Make) -> None:
    text = datasheet(make_record(("ant", "bee")))
    assert "An image file. The run does not record formats and sizes." in texts(text)
    assert any("`regraft inspect DATA`" in line and MARK in line for line in text.splitlines())


def test_the_draft_is_no_advice(make_record: Make) -> None:
    text = annex_iv(make_record(("ant", "bee"), config='[training]\nmonitor = "val_loss"\nseed = 3\n'))
    assert "**This is a draft and no legal advice.**" in text.split("## 1.")[0]
    assert {("training.monitor", "val_loss"), ("training.seed", "3")} <= set(table_rows(text))


def test_damaged_settings_are_named(make_record: Make) -> None:
    with pytest.raises(RunError, match=r"config\.toml of run is damaged"):
        annex_iv(make_record(("ant", "bee"), config="[training"))

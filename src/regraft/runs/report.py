"""The report of a run and its model card, written from the run's folder; the same run always gives the same files."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

from PIL import Image

from regraft.atomic_io import write_csv, write_json, write_text
from regraft.data.dataset import Dataset
from regraft.data.decode import MAX_PIXELS, ImageSource
from regraft.data.preprocessing import Preprocessing
from regraft.errors import RegraftError, RunError, UsageError, suggest_names
from regraft.report import plots
from regraft.report.model_card import model_card
from regraft.report.record import RunRecord
from regraft.report.run_page import run_page
from regraft.report.tasks import REPORTS
from regraft.report.thumbnails import THUMBNAIL_SIZE, data_uri, read_thumbnails
from regraft.runs.documents import CARD as CARD
from regraft.runs.documents import Template, is_changed, with_checksum, write_document
from regraft.runs.explain import stream
from regraft.runs.record import damage_named, record_of
from regraft.runs.run import Run
from regraft.runs.run_images import SourceOf, images_of
from regraft.text import in_shell

REPORT, SUSPECTS, BILL = "report.html", "label_errors.csv", "mlbom.json"


@suggest_names
def write_report(
    run: Run | Path | str,
    data: Dataset | Path | str | None = None,
    *,
    template: Template | None = None,
    out: Path | str | None = None,
) -> Path:
    """Write the `report.html`, `MODEL_CARD.md`, `mlbom.json` and `label_errors.csv` of a run, or one document.

    A model card that a person has changed is kept, and the others are written again.

    Args:
        run: A run, or its folder. The report says what it does not contain, such as the metrics of a training that was
            stopped.
        data: The images of the run: a data set, or what `scan` accepts. Default: the location in the run, if it exists
            on this machine. The report marks images that are missing or have changed.
        template: Write a document that people complete instead, from what the run knows: `model-card`, `datasheet` (of
            its images), or `annex-iv` (a draft of the technical documentation that the EU AI Act asks for).
        out: The file of that document. Default: `MODEL_CARD.md`, `DATASHEET.md` or `ANNEX_IV.md` in the run's folder.

    Returns:
        The HTML file, or the document.

    Raises:
        UsageError: The run's folder does not exist, or `data` cannot be read; there is no such template, or a person
            wrote or changed the file of the document; or an option has no effect.
        RunError: The folder contains no model, or a file in it is damaged.
        DataError: The predictions or the data are damaged.

    Examples:
        >>> print(regraft.write_report("runs/photos"))
        runs/photos/report.html
        >>> print(regraft.write_report("runs/photos", template="datasheet"))
        runs/photos/DATASHEET.md
    """
    from regraft.report.bill_of_materials import bill_of_run  # what it imports is used only here

    run = run if isinstance(run, Run) else Run(run)
    if template is not None:
        if data is not None:
            raise UsageError("data has no effect with template: a document has no pictures. Leave one of them out.")
        return write_document(run, template, out)
    if out is not None:
        raise UsageError("out is the file of a document: it has no effect without template. Leave it out.")
    record = record_of(run)
    report = REPORTS[record.task]
    with damage_named(run):
        bill, card = bill_of_run(record), with_checksum(model_card(record))
        suspects = [report.suspect_row(suspect) for suspect in record.suspects]
    source = images_of(run, data)
    max_pixels = data.max_pixels if isinstance(data, Dataset) else MAX_PIXELS
    preprocessing = Preprocessing.from_json(run.description["preprocessing"])
    decode = partial(preprocessing.picture, max_pixels=max_pixels)
    thumbnails = {} if source is None else read_thumbnails(record.image_names(), source, decode)
    maps: dict[str, str] | None = None if run.task == "regression" else {}  # numbers have no maps so far
    if maps is not None and source is not None and not record.at_chance:
        maps = _attribution_maps(run, record, source, max_pixels, set(thumbnails))
    with damage_named(run):
        page = run_page(record, thumbnails, maps)
    write_json(run.path / BILL, bill)
    write_csv(run.path / SUSPECTS, report.suspect_columns, suspects)
    if not is_changed(run.path / CARD):
        write_text(run.path / CARD, card)
    write_text(run.path / REPORT, page)
    return run.path / REPORT


def kept_card(path: Path) -> str:
    """A sentence if the model card in a run's folder is not of `write_report`, because a person has changed it."""
    card = path / CARD
    if not is_changed(card):
        return ""
    return (
        f"{card} was changed by a person and is kept as it is. "
        f"A new one, to compare: regraft report {in_shell(path)} --template model-card --out NEW.md"
    )


def _attribution_maps(
    run: Run, record: RunRecord, source: SourceOf, max_pixels: int, available: set[str]
) -> dict[str, str]:
    """Data URIs by name of the best and worst predictions under their attribution maps; empty without a method.

    A map that is zero everywhere is left out.
    """
    sources: dict[str, ImageSource] = {}
    for name in record.predicted_image_names():
        if name in available:
            with suppress(RegraftError, OSError):  # the file is gone since the thumbnail was made
                sources[name] = source(name)
    try:
        explanations = stream(run, sources.values(), max_pixels=max_pixels, side=2 * THUMBNAIL_SIZE)
        return {
            name: data_uri(Image.fromarray(plots.attribution_plots.overlay(explanation.image, explanation.heat[0])))
            for name, explanation in zip(sources, explanations, strict=True)
            if explanation.error is None and explanation.heat.any()
        }
    except (UsageError, RunError):  # no spatial stage, or no weights
        return {}

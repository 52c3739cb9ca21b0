"""`regraft explain RUN IMAGE...`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer import Argument, Option

from regraft.atomic_io import write_json
from regraft.attribution.methods import METHODS
from regraft.cli.options import Json, RunImages, RunOrExport
from regraft.cli.output import console, err, print_json
from regraft.errors import RegraftError, UnknownNameError, UsageError
from regraft.runs.progress import rich_progress

if TYPE_CHECKING:
    import numpy as np

    from regraft.exporting.exported_model import ExportedModel
    from regraft.report.plots.samples import NumberTile, SampleTile
    from regraft.runs.explain import Explanation
    from regraft.runs.run import Run
    from regraft.studies.attribution_audit import AttributionAudit

#: What the pictures in the folder show, as in `--json`.
_EXPLANATIONS = "explanations.json"
#: Number of images on a contact sheet.
_SHEET = 24
#: Suffixes by which `--out` is a picture.
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
#: Cells a side up to which finer maps are offered.
_COARSE = 4


def command(
    run: RunOrExport,
    images: Annotated[
        list[str] | None, Argument(help="Image files or folders; with --audit labeled data, or none for the test.")
    ] = None,
    method: Annotated[str, Option(help=f"{', '.join(METHODS)}.")] = METHODS[0],
    label: Annotated[
        str | None, Option("--class", help="Class to explain. Default: the predicted one. Of a number: higher, lower.")
    ] = None,
    layer: Annotated[str | None, Option(help="Stage of the backbone, as `regraft summary` lists them.")] = None,
    two: Annotated[bool, Option("--two", help="Explain the two most probable classes side by side.")] = False,
    mistakes: Annotated[
        int, Option(metavar="N", min=0, help="Explain this many of the run's most confident errors instead.")
    ] = 0,
    audit: Annotated[
        bool, Option("--audit", help="Measure where the model looks in all images, and its accuracy without.")
    ] = False,
    data: RunImages = None,
    npy: Annotated[bool, Option("--npy", help="Also write the maps as float32 .npy files in [0, 1].")] = False,
    out: Annotated[
        Path | None, Option(help="Folder, or for one image a file (gradcam.jpg). Default: RUN/explanations.")
    ] = None,
    json: Json = False,
) -> None:
    """Draw heat maps of the evidence for a class over the images."""
    if method not in METHODS:
        raise UnknownNameError("method", method, list(METHODS))
    chosen = images or []
    if (mistakes > 0) + audit + (bool(chosen) and not audit) != 1:
        raise UsageError("Expected images, or --mistakes N, or --audit.")
    if audit and (label is not None or two or npy or len(chosen) > 1):
        raise UsageError("--audit takes at most one set of labeled data, and neither --class, --two nor --npy.")
    if data is not None and not mistakes:
        raise UsageError("--data is for --mistakes; with --audit give the labeled data itself.")
    screen = console(json)
    folder = out or run / "explanations"
    with screen.status("Starting"):
        from regraft.exporting.exported_model import is_export, open_with_maps
        from regraft.runs.run import Run
        from regraft.runs.run_folder import refuse_images

        if is_export(run):
            if mistakes or audit:
                raise UsageError(f"{run} is an export; --mistakes and --audit need the run that it was made from.")
            model: Run | ExportedModel = open_with_maps(run)
        else:
            model = Run(run)
    is_picture = out is not None and out.suffix.lower() in _PICTURES and not out.is_dir()
    earlier = any((folder / file).exists() for file in (_EXPLANATIONS, "evidence.json"))
    if out is not None and not is_picture and not earlier:
        refuse_images(out)
    if isinstance(model, Run):
        if audit:
            _audit(model, chosen[0] if chosen else None, method, layer, folder, screen, json)
            return
        _warn_at_chance(model)
    options = {"batch_size": 4, "method": method, "label": label, "likeliest": 2 if two else None, "stage": layer}
    if out is not None and is_picture:
        if mistakes or two or npy:
            raise UsageError(f"--out {out} is one picture, without --mistakes, --two and --npy. Expected a folder.")
        _save_one(model, chosen, options, out, screen, json)
        return
    _explain(model, chosen, mistakes, data, options, folder, npy, screen, json)


def _warn_at_chance(run: Run) -> None:
    """Heat maps that were asked for are drawn, with the reason why they may mean nothing."""
    from regraft.evaluation.stored_predictions import find_predictions

    if run.task == "multilabel" or not find_predictions(run.path):
        return
    if reason := run.evaluate_numbers().no_better if run.task == "regression" else run.evaluate().at_chance:
        err.print(f"[yellow]{escape(reason)} Read nothing into heat maps of such a model.[/yellow]")


def _save_one(
    model: Run | ExportedModel, images: list[str], options: dict[str, Any], out: Path, screen: Console, json: bool
) -> None:
    """Save the image under its heat map as one file."""
    from regraft.runs.explain import explain

    explanations = explain(model, images, **options)
    if len(explanations) != 1:
        raise UsageError(f"--out {out} is one picture, and there are {len(explanations)} images. Expected a folder.")
    (explanation,) = explanations
    if explanation.error is not None:
        raise RegraftError(f"{explanation.source}: {explanation.error}")
    explanation.save(out)
    name = explanation.targets[0]
    if json:
        top = {} if explanation.value is not None else {"top": [[name, explanation.probability(name)]]}
        row = {"path": str(explanation.source), **_answer(explanation), **top}
        print_json({"images": [{**row, "picture": str(out)}], "sheet": None})
    else:
        said = (
            f"{name} {100 * explanation.probability(name):.1f} %" if explanation.value is None else _number(explanation)
        )
        screen.print(f"{escape(said)}  [bold]{escape(str(out))}[/bold]")


def _answer(explanation: Explanation) -> dict[str, Any]:
    """What the model says of the image, as JSON values."""
    if explanation.value is not None:
        interval = explanation.interval
        return {"quantity": explanation.classes[0], "value": explanation.value, "interval": interval and list(interval)}
    return {"labels": list(explanation.labels)} if explanation.thresholds else {"label": explanation.label}


def _number(explanation: Explanation) -> str:
    return f"{explanation.classes[0]} {explanation.label}"


def _explain(
    model: Run | ExportedModel, images: list[str], mistakes: int, data: str | None, options: dict[str, Any],
    folder: Path, npy: bool, screen: Console, json: bool,
) -> None:  # fmt: skip
    from regraft.data.ignored import describe_ignored
    from regraft.models.image_sources import iter_sources
    from regraft.report.plots.samples import plot_samples
    from regraft.runs.explain import stream
    from regraft.runs.run import Run
    from regraft.runs.top_losses import top_losses

    labels: list[str | None]
    if mistakes and isinstance(model, Run):
        losses = top_losses(model, mistakes, data)
        names, labels = [loss.path for loss in losses], [loss.label for loss in losses]
        wrong = [loss.wrong for loss in losses]
        sources: list[Any] = [loss.content for loss in losses]
    else:
        ignored: list[str] = []
        sources = list(iter_sources(images, ignored.extend))
        for line in describe_ignored(ignored, Path):
            err.print(f"[yellow]not used:[/yellow] {escape(line)}")
        names, labels = [str(path) for path in sources], [None] * len(sources)
        wrong = [None] * len(sources)
    pictures = _Pictures(folder, npy)
    rows: list[dict[str, Any]] = []
    errors: list[dict[str, str]] = []
    with rich_progress(err) as reporter:
        if any(wrong):
            options = options | {"labels": wrong}
        explanations = zip(stream(model, sources, **options), names, labels, wrong, strict=True)
        for done, (explanation, name, label, mistaken) in enumerate(explanations, start=1):
            if explanation.error is None:
                rows.append(pictures.add(explanation, name, label, mistaken))
            else:
                errors.append({"path": name, "error": explanation.error})
            reporter.on_progress("explain", done, len(sources), "images")
        sheet = folder / "sheet.png" if len(pictures.tiles) > 1 else None
        if sheet:
            plot_samples(pictures.tiles, sheet, title=pictures.title(is_of_errors=mistakes > 0))
    if rows:
        write_json(folder / _EXPLANATIONS, rows + errors)
    if json:
        print_json({"images": rows + errors, "sheet": None if sheet is None else str(sheet)})
    else:
        for row in rows if len(rows) <= _SHEET else []:
            top = f"{row['quantity']} {row['value']:.4g}" if "value" in row else ""
            top = top or ", ".join(f"{name} {100 * p:.1f} %" for name, p in row["top"])
            screen.print(f"{escape(row['path'])}: {escape(top)}  [bold]{escape(row['picture'])}[/bold]")
        _describe_maps(model, rows, screen)
        if len(rows) > _SHEET:
            screen.print(f"{len(rows)} pictures in [bold]{escape(str(folder))}[/bold]")
        if sheet:
            screen.print(f"[bold]Look at[/bold]  {escape(str(sheet))}")
        if not names:
            screen.print("None of the run's stored predictions is wrong.")
    for error in errors:
        err.print(f"[yellow]cannot be read:[/yellow] {escape(error['path'])}: {escape(error['error'])}")
    if errors:
        raise RegraftError(f"{len(errors)} of {len(names)} images could not be read.")


def _describe_maps(model: Run | ExportedModel, rows: list[dict[str, Any]], screen: Console) -> None:
    """Say how coarse the maps are and which of them are zero everywhere, and what would be finer."""
    from regraft.runs.explain import finer_maps
    from regraft.runs.run import Run, classifier_of

    empty = [row for row in rows if row["empty"]]
    for row in empty[:_SHEET]:
        names = ", ".join(row["empty"])
        screen.print(f"[yellow]zero everywhere:[/yellow] {escape(row['path'])}: no evidence for {escape(names)}")
    bands = classifier_of(model).preprocessing.bands
    if rows and bands is not None and (note := bands.describe_pictures()):
        screen.print(note)
    if not rows or not rows[0]["grid"]:
        return
    stage, (height, width) = rows[0]["stage"], rows[0]["grid"]
    screen.print(f"Each map has {height} x {width} cells (stage {escape(stage)}).")
    if empty or min(height, width) <= _COARSE:
        others = " Or --method integrated-gradients." if empty and isinstance(model, Run) else ""
        screen.print(f"Finer: {escape(finer_maps(model, stage))}.{others}")


@dataclass
class _Pictures:
    folder: Path
    npy: bool
    used: set[str] = field(default_factory=lambda: {"sheet"})
    tiles: list[SampleTile | NumberTile] = field(default_factory=list)
    of_number: str = ""  # what the maps on the sheet explain, if the model gives images numbers

    def title(self, *, is_of_errors: bool) -> str:
        """The title of the sheet."""
        if self.of_number:
            return f"{'Largest errors, e' if is_of_errors else 'E'}vidence for {self.of_number}"
        return "Most confident errors" if is_of_errors else ""

    def add(self, explanation: Explanation, name: str, label: str | None, wrong: str | None) -> dict[str, Any]:
        """Draw an explanation; `wrong` is the class about which the model errs, if it gives any number of labels."""
        import numpy as np

        from regraft.atomic_io import atomic_write
        from regraft.data.labels import split_labels
        from regraft.report.plots.attribution_plots import Panel, overlay, plot_attribution

        stem = first = Path(name.rpartition("::")[2]).stem or "image"
        number = 1
        while stem.lower() in self.used:
            number += 1
            stem = f"{first}-{number}"
        self.used.add(stem.lower())
        if not (contents := self.folder / _EXPLANATIONS).exists():
            write_json(contents, [])  # before the pictures, so that a scan of data around the folder knows it
        picture = self.folder / f"{stem}.png"
        several = bool(explanation.thresholds)
        given = None if label is None or not several else split_labels(label)
        error = "" if wrong is None or given is None else ", missed" if wrong in given else ", absent"
        evidence = "evidence for " if explanation.value is not None else ""
        panels = [
            Panel(heat, evidence + explanation.describe(target) + error)
            for heat, target in zip(explanation.heat, explanation.targets, strict=True)
        ]
        panels += [Panel(maps[0], f"{explanation.targets[0]}: {name}") for name, maps in explanation.members.items()]
        truth = "" if label is None else f", true: {label if given is None else ', '.join(given) or 'none'}"
        grid = explanation.grid
        caption = f"map of {grid[0]} x {grid[1]} cells ({explanation.stage})" if grid else ""
        said = "" if explanation.value is None else f": {_number(explanation)}"
        plot_attribution(explanation.image, panels, picture, title=Path(name).name + said + truth, caption=caption)
        if len(self.tiles) < _SHEET:
            step = max(1, max(explanation.image.shape[:2]) // 400)
            image = overlay(explanation.image[::step, ::step], explanation.heat[0, ::step, ::step])
            self.tiles.append(_tile(explanation, image, label, wrong))
            if explanation.value is not None:
                self.of_number = explanation.describe(explanation.targets[0])
        shown = explanation.targets if several else explanation.ranked[:2]
        top = [(target, explanation.probability(target)) for target in shown]
        row: dict[str, Any] = {"path": name, **_answer(explanation), "targets": list(explanation.targets),
                               **({"top": top} if top else {}),
                               "picture": str(picture), "stage": explanation.stage,
                               "grid": grid and list(grid), "empty": list(explanation.empty)}  # fmt: skip
        if label is not None:
            row["truth"] = float(label) if explanation.value is not None else label if given is None else list(given)
        row |= {} if wrong is None else {"wrong": wrong}
        if self.npy:
            array = self.folder / f"{stem}.npy"
            with atomic_write(array) as temporary, temporary.open("wb") as file:
                np.save(file, explanation.heat if len(explanation.heat) > 1 else explanation.heat[0])
            row["npy"] = str(array)
        return row


def _tile(explanation: Explanation, image: np.ndarray, label: str | None, wrong: str | None) -> SampleTile | NumberTile:
    """The tile of an image under its first map on the sheet; `label` and `wrong` as in `_Pictures.add`."""
    from regraft.data.labels import split_labels
    from regraft.report.plots.samples import NumberTile, SampleTile

    target = explanation.targets[0]
    if explanation.value is not None:
        number = None if label is None else float(label)
        return NumberTile(image, number, explanation.value, explanation.half_width)
    p = explanation.probability(target)
    if wrong is None or label is None:
        return SampleTile(image, label, target, p)
    if wrong in split_labels(label):
        return SampleTile(image, target, "absent", 1 - p)
    return SampleTile(image, "absent", target, p)


def _audit(
    run: Run, data: str | None, method: str, layer: str | None, folder: Path, screen: Console, json: bool
) -> None:
    from regraft.studies.attribution_audit import audit_attribution

    with rich_progress(err) as reporter:
        audit = audit_attribution(run, data, method=method, stage=layer, reporter=reporter)  # type: ignore[arg-type]  # checked
    files = audit.write(folder)
    value = audit.to_json()
    if json:
        print_json(value | {"files": [str(file) for file in files]})
        return
    _print_audit(audit, value, screen)
    for file in files[1:]:
        screen.print(f"[bold]Look at[/bold]  {escape(str(file))}")


def _print_audit(audit: AttributionAudit, value: dict[str, Any], screen: Console) -> None:
    if audit.at_chance:
        withheld = "Where such a model looks means nothing: the numbers are withheld."
        screen.print(f"[yellow]{escape(audit.at_chance)} {withheld}[/yellow]")
        return
    table = Table("predicted", "images", "evidence at the border", "in the center", box=None, header_style="bold")
    for name, row in [*value["classes"].items(), ("all", value["all"])]:
        shares = ["" if row[region] is None else f"{100 * row[region]:.0f} %" for region in value["even_map"]]
        table.add_row(escape(name), f"{row['images']:,}", *shares)
    table.add_section()
    table.add_row("[dim]a uniform map[/dim]", "", *(f"[dim]{100 * v:.0f} %[/dim]" for v in value["even_map"].values()))
    screen.print(table)
    plain, occluded, control = (
        f"{100 * accuracy['value']:.1f} % ({100 * accuracy['interval'][0]:.1f} to {100 * accuracy['interval'][1]:.1f})"
        for accuracy in value["accuracy"].values()
    )
    screen.print(
        f"\nAccuracy {plain}; with the fifth of each image blurred that has the most evidence {occluded}; "
        f"with the same shape blurred half an image away {control}."
    )
    for image in audit.at_border[:4]:
        share = f"{100 * image.border:.0f} % of the evidence for {image.predicted} is at the border"
        screen.print(f"  {escape(image.path)}: {escape(share)}")
    if len(audit.at_border) > 4:
        screen.print(f"  and {len(audit.at_border) - 4:,} more")

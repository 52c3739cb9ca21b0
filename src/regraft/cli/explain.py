"""`regraft explain RUN IMAGE...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from regraft.attribution.methods import METHODS
from regraft.cli.output import console, err, print_json
from regraft.errors import RegraftError, UnknownNameError, UsageError
from regraft.pipeline.listening import listening

if TYPE_CHECKING:
    from regraft.pipeline.explain import Explanation
    from regraft.pipeline.run import Run

#: Images on a sheet.
_SHEET = 24


def command(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="Image files, or folders; with --audit labelled data, or none for the images of the run's test."
        ),
    ] = None,
    method: Annotated[str, typer.Option(help=f"How the evidence is found: {', '.join(METHODS)}.")] = METHODS[0],
    label: Annotated[str | None, typer.Option("--class", help="Whose evidence; default: the likeliest class.")] = None,
    layer: Annotated[
        str | None, typer.Option(help="Stage of the backbone to look at, as `regraft summary` lists them.")
    ] = None,
    two: Annotated[bool, typer.Option("--two", help="The two likeliest classes, side by side.")] = False,
    mistakes: Annotated[
        int, typer.Option(min=0, help="In place of images: so many of the run's wrong answers, the surest first.")
    ] = 0,
    audit: Annotated[
        bool, typer.Option("--audit", help="Where the model looks over all of the data, and what it answers without.")
    ] = False,
    data: Annotated[
        str | None, typer.Option(help="The run's images, for --mistakes; default: where the run says that they were.")
    ] = None,
    npy: Annotated[bool, typer.Option("--npy", help="Write the maps too, float32 in [0, 1], as .npy files.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the pictures; default: RUN/explanations.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Show where in an image the evidence for its class lies, as a heat map over it."""
    if method not in METHODS:
        raise UnknownNameError("method", method, list(METHODS))
    wanted = images or []
    if (mistakes > 0) + audit + (bool(wanted) and not audit) != 1:
        raise UsageError("Expected images, or --mistakes N, or --audit.")
    if audit and (label is not None or two or npy or len(wanted) > 1):
        raise UsageError("--audit takes at most one set of labelled data, and neither --class, --two nor --npy.")
    if data is not None and not mistakes:
        raise UsageError("--data is for --mistakes; with --audit name the labelled data itself.")
    screen = console(json)
    folder = out or run / "explanations"
    with screen.status("Starting"):
        from regraft.pipeline.run import load

        loaded = load(run)
    if audit:
        _audit(loaded, wanted[0] if wanted else None, method, layer, folder, screen, json)
        return
    options = {"batch_size": 4, "method": method, "label": label, "likeliest": 2 if two else 1, "stage": layer}
    _explain(loaded, wanted, mistakes, data, options, folder, npy, screen, json)


def _explain(
    run: Run, images: list[str], mistakes: int, data: str | None, options: dict[str, Any], folder: Path, npy: bool,
    screen: Console, json: bool,
) -> None:  # fmt: skip
    from regraft.models.inference import one_or_many
    from regraft.pipeline.explain import stream
    from regraft.pipeline.mistakes import surest_mistakes

    truth: list[str | None]
    if mistakes:
        chosen = surest_mistakes(run, mistakes, data)
        names = [mistake.path for mistake in chosen]
        truth = [mistake.label for mistake in chosen]
        sources: list[Any] = [mistake.content for mistake in chosen]
    else:
        sources = list(one_or_many(images))
        names, truth = [str(path) for path in sources], [None] * len(sources)
    pictures = _Pictures(folder, npy)
    found: list[dict[str, Any]] = []
    bad: list[tuple[str, str]] = []
    with listening(err) as listener:
        for done, (explanation, name, true) in enumerate(
            zip(stream(run, sources, **options), names, truth, strict=True), start=1
        ):
            if explanation.error is None:
                found.append(pictures.add(explanation, name, true))
            else:
                bad.append((name, explanation.error))
            listener.work("explain", done, len(sources), "images")
        sheet = pictures.sheet("The surest mistakes" if mistakes else "")
    if json:
        errors = [{"path": name, "error": error} for name, error in bad]
        print_json({"images": found + errors, "sheet": None if sheet is None else str(sheet)})
    else:
        for row in found if len(found) <= _SHEET else []:
            told = ", ".join(f"{name} {100 * p:.1f} %" for name, p in row["top"])
            screen.print(f"{escape(row['path'])}: {escape(told)}  [bold]{escape(row['picture'])}[/bold]")
        if len(found) > _SHEET:
            screen.print(f"{len(found)} pictures in [bold]{escape(str(folder))}[/bold]")
        if sheet is not None:
            screen.print(f"[bold]Look at[/bold]  {escape(str(sheet))}")
        if not names:
            screen.print("Not one of the answers that the run keeps is wrong.")
    for name, error in bad:
        err.print(f"[yellow]cannot be read:[/yellow] {escape(name)}: {escape(error)}")
    if bad:
        raise RegraftError(f"{len(bad)} of {len(names)} images could not be read.")


class _Pictures:
    """Writes the pictures of explanations, under names that no two share."""

    def __init__(self, folder: Path, npy: bool) -> None:
        from regraft.report.samples import SampleTile

        self.folder, self.npy = folder, npy
        self.used = {"sheet"}
        self.tiles: list[SampleTile] = []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, explanation: Explanation, name: str, truth: str | None) -> dict[str, Any]:
        """Write one; returns what is known of it."""
        import numpy as np

        from regraft.files import replacing
        from regraft.report.heat import Panel, overlay, plot_heat
        from regraft.report.samples import SampleTile

        stem = first = Path(name.rpartition("::")[2]).stem or "image"
        number = 1
        while stem.lower() in self.used:
            number += 1
            stem = f"{first}-{number}"
        self.used.add(stem.lower())
        picture = self.folder / f"{stem}.png"
        panels = [
            Panel(heat, f"{target}, {100 * explanation.probability(target):.1f} %")
            for heat, target in zip(explanation.heat, explanation.targets, strict=True)
        ]
        is_truth = "" if truth is None else f", is {truth}"
        plot_heat(explanation.image, panels, picture, title=Path(name).name + is_truth)
        if len(self.tiles) < _SHEET:
            step = max(1, max(explanation.image.shape[:2]) // 400)
            shown = overlay(explanation.image[::step, ::step], explanation.heat[0, ::step, ::step])
            target = explanation.targets[0]
            self.tiles.append(SampleTile(shown, truth, target, explanation.probability(target)))
        top = sorted(zip(explanation.classes, explanation.probabilities.tolist(), strict=True), key=lambda e: -e[1])
        row: dict[str, Any] = {"path": name, "label": explanation.label, "targets": list(explanation.targets),
                               "top": top[:2], "picture": str(picture)}  # fmt: skip
        if truth is not None:
            row["truth"] = truth
        if self.npy:
            array = self.folder / f"{stem}.npy"
            with replacing(array) as temporary, temporary.open("wb") as file:
                np.save(file, explanation.heat if len(explanation.heat) > 1 else explanation.heat[0])
            row["npy"] = str(array)
        return row

    def sheet(self, title: str) -> Path | None:
        """All of them on one picture, if there are several."""
        from regraft.report.samples import plot_samples

        if len(self.tiles) < 2:
            return None
        path = self.folder / "sheet.png"
        plot_samples(self.tiles, path, title=title)
        return path


def _audit(
    run: Run, data: str | None, method: str, layer: str | None, folder: Path, screen: Console, json: bool
) -> None:
    from regraft.pipeline.evidence import audit_evidence

    with listening(err) as listener:
        found = audit_evidence(run, data, method=method, stage=layer, listener=listener)  # type: ignore[arg-type]  # checked
    files = found.write(folder)
    value = found.to_json()
    if json:
        print_json(value | {"files": [str(file) for file in files]})
        return
    table = Table("taken for", "images", "evidence at the border", "in the centre", box=None, header_style="bold")
    for name, row in [*value["classes"].items(), ("all", value["all"])]:
        shares = ["" if row[k] is None else f"{100 * row[k]:.0f} %" for k in ("border", "centre")]
        table.add_row(escape(name), f"{row['images']:,}", *shares)
    table.add_section()
    table.add_row("[dim]an even map[/dim]", "", *(f"[dim]{100 * v:.0f} %[/dim]" for v in value["even_map"].values()))
    screen.print(table)
    accuracy = value["accuracy"]
    said = {
        name: f"{100 * a['value']:.1f} % ({100 * a['interval'][0]:.1f} to {100 * a['interval'][1]:.1f})"
        for name, a in accuracy.items()
    }
    screen.print(
        f"\nAccuracy {said['plain']}; with the fifth of each image blurred that has the most evidence "
        f"{said['evidence_hidden']}; with as much blurred half an image away {said['as_much_elsewhere_hidden']}."
    )
    for image in found.at_border[:4]:
        screen.print(
            f"  {escape(image.path)}: {100 * image.border:.0f} % of the evidence for {escape(image.predicted)} lies at "
            "the border"
        )
    if len(found.at_border) > 4:
        screen.print(f"  and {len(found.at_border) - 4:,} more")
    for file in files[1:]:
        screen.print(f"[bold]Look at[/bold]  {escape(str(file))}")

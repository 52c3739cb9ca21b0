"""The configuration: every setting in one value, checked as a whole before any work.

Enters: a TOML file and `section.key=value` settings. Leaves: a frozen `Config`, or one error that lists everything
that is wrong. The settings' names, defaults and descriptions stand with the parts that use them.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from regraft.data.augmentation import Augmentation
from regraft.data.scan import OnBad
from regraft.errors import ConfigError, nearest
from regraft.models.classifier import ModelOptions
from regraft.tracking.options import TrackingOptions
from regraft.training.options import TrainingOptions


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DataOptions:
    """How the data is read and divided."""

    val: Annotated[
        float,
        Field(ge=0, lt=1, description="share of the images for validation, where the data names no such part"),
    ] = 0.1
    test: Annotated[
        float,
        Field(ge=0, lt=1, description="share of the images for the test, where the data names no such part"),
    ] = 0.1
    on_bad: Annotated[OnBad, Field(description="unreadable images: skip (left out and listed) or error")] = "skip"
    group_by: Annotated[
        str,
        Field(description="regular expression; images in whose paths it finds the same share a part; empty: none"),
    ] = ""
    keep_split: Annotated[
        str,
        Field(description="a split.csv or a run's folder; images that are in it keep their part; empty: none"),
    ] = ""
    remote: Annotated[
        bool, Field(description="fetch images that a manifest names elsewhere, by URLs, for every reading of them")
    ] = False


class Config(BaseModel):
    """Everything that can be set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: DataOptions = DataOptions()
    model: ModelOptions = ModelOptions()
    augmentation: Augmentation = Augmentation()
    training: TrainingOptions = TrainingOptions()
    tracking: TrackingOptions = TrackingOptions()

    def to_toml(self) -> str:
        """The settings as TOML, without comments; reading it back gives an equal `Config`."""
        return tomli_w.dumps({section: _plain(getattr(self, section)) for section in type(self).model_fields})


def load_config(file: Path | None = None, settings: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Args:
        file: TOML; None: the defaults.
        settings: `section.key=value`, values as in TOML (a string may go without quotes); they win over the file.

    Raises:
        ConfigError: Anything is wrong; all of it is listed, unknown keys with the nearest valid name.
    """
    values = _read(file) if file else {}
    faults: list[str] = []
    for setting in settings:
        key, separator, text = setting.partition("=")
        section, dot, name = key.strip().partition(".")
        if not separator or not dot or not name:
            faults.append(f"--set {setting}: expected section.key=value{_did_you_mean(key.strip())}")
            continue
        table = values.setdefault(section, {})
        if isinstance(table, dict):
            table[name] = _toml_value(text.strip())
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        faults += [_fault(e) for e in error.errors()]
    if faults:
        where = f"{file}: " if file else ""
        raise ConfigError(
            f"{where}{len(faults)} setting{'s are' if len(faults) > 1 else ' is'} wrong:\n  "
            + "\n  ".join(faults)
            + "\n`regraft config` prints every setting with its meaning."
        )
    return config


def defaults_with_comments() -> str:
    """All settings with their defaults and meanings, as TOML to start from."""
    lines = ["# Every setting of regraft with its default. Keep what you change and delete the rest."]
    for section, options in _sections().items():
        lines += ["", f"[{section}]"]
        for name, (default, description) in options.items():
            lines += [
                f"# {description}",
                tomli_w.dumps({name: default}).rstrip().replace("\n    ", "").replace(",\n]", "]"),
            ]
    return "\n".join(lines) + "\n"


def _sections() -> dict[str, dict[str, tuple[Any, str]]]:
    """Section -> key -> (default, description)."""
    sections: dict[str, dict[str, tuple[Any, str]]] = {}
    for section, field in Config.model_fields.items():
        schema = TypeAdapter(type(field.default)).json_schema()
        plain = _plain(field.default)
        sections[section] = {name: (plain[name], schema["properties"][name]["description"]) for name in plain}
    return sections


def _plain(options: Any) -> dict[str, Any]:
    values = dataclasses.asdict(options)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"--config {file} does not exist. `regraft config > {file}` makes one to start from."
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--config {file} cannot be read as TOML: {error}") from error


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _fault(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"][:2])
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{key}: no such setting{_did_you_mean(key)}"
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{key} = {error['input']!r}: {message}"


def _did_you_mean(key: str) -> str:
    known = [f"{section}.{name}" for section, options in _sections().items() for name in options]
    by_name = {name.partition(".")[2]: name for name in known}
    near = nearest(key, known) or [by_name[name] for name in nearest(key.rpartition(".")[2], by_name)]
    return f"; did you mean {' or '.join(near)}?" if near else ""

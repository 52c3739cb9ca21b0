"""Presets: settings under one name, which settings that are given override.

Input: a preset's name, or a configuration. Output: the settings of the preset, or a sentence about them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from regraft.text import join_truncated

Preset = Literal["fast", "balanced", "best", "keras"]
#: The defaults of all settings.
DEFAULT_PRESET: Preset = "balanced"

#: Preset -> section -> setting -> value.
PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    # The head, and a few epochs of the stages with the lowest resolution (docs/performance.md).
    "fast": {"training": {"finetune_epochs": 3, "finetune_from": "last", "views": 1}},
    "balanced": {},
    # Chosen by cross-validation and validation from whatever the machine has, in the time of `default_budget`.
    # 12 epochs, not the default of 10, so that an explicit `--epochs 10` is recognized as a request.
    "best": {"model": {"backbone": "auto"}, "run": {"max_backbones": 3}, "training": {"finetune_epochs": 12}},
    # `compile(Adam(...))` and `fit` on GlobalAveragePooling2D, Dropout and Dense, with ModelCheckpoint(save_best_only).
    "keras": {
        "model": {"head_stages": "last"},
        "augmentation": {"flip": 0.0, "random_crop": 0.0, "color_jitter": 0.0},
        "training": {
            "head_optimizer": "adam",
            "optimizer": "adam",
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


#: Seconds that `best` takes for an image on two cores, and at least, unless a budget is given.
_SECONDS_PER_IMAGE, _LEAST_SECONDS = 0.18, 60.0


def default_budget(preset: str, images: int, cpus: int) -> float:
    """Seconds that a preset takes for so many training images on so many cores, where no budget is given; 0: no limit.

    `best` has three minutes for 1,000 images on two cores.
    """
    if preset != "best":
        return 0.0
    return max(_LEAST_SECONDS, _SECONDS_PER_IMAGE * images * 2 / max(1, cpus))


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
    # What was chosen in place of `auto` is said where it is chosen.
    others = [f"{key} = {values[key]}" for key, value in settings.items() if values[key] != value != "auto"]
    given = f" Given instead of the preset's: {', '.join(others)}." if others else ""
    return f"Preset {preset}: {listed or 'nothing'}.{given}"

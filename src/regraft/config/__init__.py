"""All settings: read from a file, from texts and from typed values, checked as a whole, and presets of them."""

from regraft.config.config import (
    RENAMED_SETTINGS,
    Config,
    DataOptions,
    RunOptions,
    defaults_with_comments,
    load_config,
    load_run_config,
    setting_names,
)

__all__ = [
    "RENAMED_SETTINGS",
    "Config",
    "DataOptions",
    "RunOptions",
    "defaults_with_comments",
    "load_config",
    "load_run_config",
    "setting_names",
]

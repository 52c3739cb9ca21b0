"""Weights & Biases, online or offline, with local files in `tracking/wandb` of the run's folder; its settings apply."""

from __future__ import annotations

import netrc
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from regraft.data.sources.urls import redact
from regraft.errors import UsageError
from regraft.tracking.scalars import tag
from regraft.tracking.tracker import Status, require

#: Project if neither WANDB_PROJECT nor the settings of wandb name one.
_PROJECT = "regraft"
#: Hosts of W&B, with the old and the new name.
_HOSTS = {"api.wandb.ai", "api.forge.coreweave.com"}
#: Seconds to connect at the start, and to upload at the end; `wandb sync` uploads the rest later.
_CONNECT, _UPLOAD = 30.0, 50.0
#: Seconds after which the log is on disk. The default of 15 would lose more if the process is killed.
_FLUSH = 1.0


class WeightsAndBiases:
    """Log to a W&B run."""

    title = "Weights & Biases"

    def __init__(self) -> None:
        """Import wandb, or `MissingExtraError`; `UsageError` if it is online and would prompt for a login."""
        self._wandb = require("wandb", "wandb")
        settings = self._wandb.setup().settings
        mode = os.environ.get("WANDB_MODE") or settings.mode
        if mode in ("online", "shared", "run") and not _has_login(settings):
            raise UsageError(
                "Tracking with wandb needs a login. Run `wandb login` once, set WANDB_API_KEY, or set "
                "WANDB_MODE=offline to write to the run's folder only (`wandb sync` uploads it later)."
            )

    def start(self, settings: Mapping[str, Any], folder: Path, known: dict[str, Any]) -> str:
        """See `Tracker.start`."""
        known.setdefault("id", secrets.token_hex(4))
        directory = folder / "tracking"
        directory.mkdir(parents=True, exist_ok=True)
        names = type(self._wandb.Settings()).model_fields
        # Without output to the terminal, which shows progress bars, and without a copy of that terminal.
        quiet = {"silent": True, "console": "off", "init_timeout": _CONNECT, "finish_timeout": _UPLOAD,
                 "x_transaction_log_flush_interval": _FLUSH, "x_disable_meta": _has_secrets(sys.argv)}  # fmt: skip
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or self._wandb.setup().settings.project or _PROJECT,
            id=known["id"],
            resume="allow",
            name=tag(folder.resolve().name),
            dir=str(directory),
            config=dict(settings),
            reinit="create_new",  # leaves another run of the caller open
            settings=self._wandb.Settings(**{name: value for name, value in quiet.items() if name in names}),
        )
        for phase in ("head", "finetune"):
            self._run.define_metric(f"{phase}/epoch", hidden=True)
            self._run.define_metric(f"{phase}/*", step_metric=f"{phase}/epoch")
        if self._run.offline:
            return f"wandb sync {directory / 'wandb' / 'offline-run-*'}"
        return str(self._run.url or "disabled")

    def epoch(self, phase: str, epoch: int, scalars: Mapping[str, float]) -> None:
        """See `Tracker.epoch`."""
        self._run.log({f"{phase}/epoch": epoch, **scalars})

    def finish(self, status: Status, scalars: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        """See `Tracker.finish`."""
        if pictures:
            self._run.log({name: self._wandb.Image(str(file)) for name, file in pictures.items()})
        self._run.summary.update({"status": status, **scalars})
        self._run.finish(exit_code=0 if status == "finished" else 1)


def _has_secrets(words: list[str]) -> bool:
    """Whether a command has the password of a URL; W&B would upload the command with what it records of the machine."""
    return any(redact(word) != word for word in words)


def _has_login(settings: Any) -> bool:
    """Check for an API key or a token without a prompt."""
    if os.environ.get("WANDB_API_KEY") or settings.api_key or settings.identity_token_file:
        return True
    for file in (os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"):
        try:
            if file and (_HOSTS | {urlsplit(settings.base_url).hostname}) & set(netrc.netrc(file).hosts):
                return True
        except FileNotFoundError:
            continue
        except (OSError, netrc.NetrcParseError):
            return True  # wandb may be able to read it
    return False

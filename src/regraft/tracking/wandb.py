"""Weights & Biases, online or offline.

Enters: scalars and pictures. Leaves: a run of theirs, whose local files lie in `tracking/wandb`. `WANDB_MODE`,
`WANDB_PROJECT` and their other variables and settings hold.
"""

from __future__ import annotations

import netrc
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from regraft.errors import UsageError
from regraft.tracking.scalars import tag
from regraft.tracking.tracker import Status, require

#: Where neither WANDB_PROJECT nor their settings name one.
_PROJECT = "regraft"
#: Theirs, under the old name and the new one.
_HOSTS = {"api.wandb.ai", "api.forge.coreweave.com"}
#: Seconds that the upload at the end may take; what is left stays on disk for `wandb sync`.
_UPLOAD = 50.0
#: Seconds after which their log is on disk: theirs are 15, and a kill would lose as much.
_FLUSH = 1.0


class WeightsAndBiases:
    """Logs to a run of W&B."""

    title = "Weights & Biases"

    def __init__(self) -> None:
        """Import wandb and look for a login, so that nobody is asked for one in the middle.

        Raises:
            MissingExtraError: wandb is not installed.
            UsageError: It is to go online and knows no login.
        """
        self._wandb = require("wandb", "wandb")
        settings = self._wandb.setup().settings
        mode = os.environ.get("WANDB_MODE") or settings.mode
        if mode in ("online", "shared", "run") and not _has_login(settings):
            raise UsageError(
                "Tracking with wandb needs a login. Run `wandb login` once, or set WANDB_API_KEY, or set "
                "WANDB_MODE=offline to keep everything in the run's folder (`wandb sync` uploads it later)."
            )

    def start(self, settings: Mapping[str, Any], folder: Path, known: dict[str, Any]) -> str:
        """See `Tracker.start`."""
        known.setdefault("id", secrets.token_hex(4))
        place = folder / "tracking"
        place.mkdir(parents=True, exist_ok=True)
        names = type(self._wandb.Settings()).model_fields
        # Their texts would run into the progress bars, and what the terminal shows is none of their business.
        quiet = {
            "silent": True,
            "console": "off",
            "finish_timeout": _UPLOAD,
            "x_transaction_log_flush_interval": _FLUSH,
        }
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or self._wandb.setup().settings.project or _PROJECT,
            id=known["id"],
            resume="allow",
            name=tag(folder.resolve().name),
            dir=str(place),
            config=dict(settings),
            reinit="create_new",  # a run that the caller has open stays as it is
            settings=self._wandb.Settings(**{name: value for name, value in quiet.items() if name in names}),
        )
        for phase in ("head", "finetune"):
            self._run.define_metric(f"{phase}/epoch", hidden=True)
            self._run.define_metric(f"{phase}/*", step_metric=f"{phase}/epoch")
        if self._run.offline:
            return f"wandb sync {place / 'wandb' / 'offline-run-*'}"
        return str(self._run.url or "switched off")

    def epoch(self, phase: str, epoch: int, scalars: Mapping[str, float]) -> None:
        """See `Tracker.epoch`."""
        self._run.log({f"{phase}/epoch": epoch, **scalars})

    def finish(self, status: Status, scalars: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        """See `Tracker.finish`."""
        if pictures:
            self._run.log({name: self._wandb.Image(str(file)) for name, file in pictures.items()})
        self._run.summary.update({"status": status, **scalars})
        self._run.finish(exit_code=0 if status == "finished" else 1)


def _has_login(settings: Any) -> bool:
    """Whether there is a key or a token, without asking anybody."""
    if os.environ.get("WANDB_API_KEY") or settings.api_key or settings.identity_token_file:
        return True
    for file in (os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"):
        try:
            if file and (_HOSTS | {urlsplit(settings.base_url).hostname}) & set(netrc.netrc(file).hosts):
                return True
        except FileNotFoundError:
            continue
        except (OSError, netrc.NetrcParseError):
            return True  # they may read it better
    return False

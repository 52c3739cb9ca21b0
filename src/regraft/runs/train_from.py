"""Train on labeled images from where they are: read them before PyTorch is loaded, then train.

Input: data and a configuration. Output: a run. PyTorch and timm take seconds to import, and a scan needs neither. So
nothing that is imported here imports them: a wrong request is refused at once, and the first images are read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from regraft import distributed
from regraft.config import Config
from regraft.data.sources.urls import absolute
from regraft.models.registry import AUTO, find_backbone
from regraft.runs.processes import jointly
from regraft.runs.run_folder import refuse_existing_run
from regraft.runs.scan_and_split import asked_task, refuse_settings_of_classes, scan_and_split
from regraft.training.callbacks import Callback, NullReporter, ProgressReporter

if TYPE_CHECKING:
    from regraft.runs.run import Run
    from regraft.training.losses import LossFunction


@jointly
def train_from(
    data: Path | str,
    config: Config,
    out: Path | str | None = None,
    *,
    reporter: ProgressReporter | None = None,
    started: float | None = None,
    callbacks: Sequence[Callback] = (),
    loss: LossFunction | None = None,
) -> Run:
    """Scan, split, build, train and evaluate, as `regraft train` does, into a folder without a run, or a new one.

    `started` is the `time.monotonic()` at which the time budget starts, default: now. Raises `RegraftError` if reading
    the data, loading the weights or the training failed.
    """
    reporter, started = reporter or NullReporter(), time.monotonic() if started is None else started
    refuse_early(config, out)
    if config.run.from_run or config.run.class_changes or config.run.keep_images == "all":
        from regraft.runs.earlier_images import with_decision  # opens that run, which needs PyTorch

        config = with_decision(config, data, reporter)
    split = scan_and_split(data, config, reporter)
    from regraft.runs.earlier_images import source_record
    from regraft.runs.train import train_split

    source, name = source_record(config, absolute(data)), Path(absolute(data)).stem
    return train_split(None, split, config, out, name, source, reporter, started, callbacks, loss)


def refuse_early(config: Config, out: Path | str | None, *, with_model: bool = False) -> None:
    """Refuse what needs no look at the images: a folder with a run, and a backbone that no model can be built of."""
    if out is not None:
        distributed.on_rank_0(partial(refuse_existing_run, Path(out)))
    refuse_settings_of_classes(asked_task(config), config)
    if with_model:
        return
    if config.model.backbone == AUTO:
        from regraft.runs.backbone_search import candidates_for  # asks timm

        candidates_for(config.model.weights)
    else:
        find_backbone(config.model.backbone)

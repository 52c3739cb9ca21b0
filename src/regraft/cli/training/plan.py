"""`regraft plan DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.markup import escape
from typer import Option

from regraft.cli.options import (
    AskedTask,
    Backbone,
    ConfigFile,
    GroupBy,
    ImageSize,
    Json,
    LabeledData,
    LabelSeparator,
    Order,
    PoolBy,
    Settings,
    refuse_flags_without_effect,
    with_training_flags,
)
from regraft.cli.output import console, print_json
from regraft.errors import UsageError
from regraft.runs.progress import rich_progress

if TYPE_CHECKING:
    from regraft.training.scaling import ScalePlan


@with_training_flags
def command(
    data: LabeledData,
    images: Annotated[
        int | None, Option(metavar="N", min=1, help="Plan for this many images like those of DATA.")
    ] = None,
    processes: Annotated[int, Option(metavar="N", min=1, help="Processes that train together.")] = 1,
    gpus: Annotated[int | None, Option(metavar="N", min=0, help="GPUs, one for each process.")] = None,
    cpus: Annotated[int | None, Option(metavar="N", min=1, help="CPUs of all machines together.")] = None,
    rates: Annotated[Path | None, Option(metavar="FILE", help="Speeds as JSON. Default: measured here.")] = None,
    disk_gb: Annotated[
        float | None, Option(metavar="GB", min=0, help="Disk for the cache in GB. Default: what is free here.")
    ] = None,
    save_rates: Annotated[
        Path | None, Option(metavar="FILE", help="Write the measured speeds of this machine.")
    ] = None,
    backbone: Backbone = None,
    image_size: ImageSize = None,
    finetune_from: Annotated[str | None, Option(help="auto, last, none, all, a stage or a number of layers.")] = None,
    group_by: GroupBy = None,
    pool_by: PoolBy = None,
    task: AskedTask = None,
    order: Order = None,
    label_separator: LabelSeparator = None,
    config: ConfigFile = None,
    settings: Settings = None,
    json: Json = False,
    *,
    flags: dict[str, Any],
) -> None:
    """Estimate time, memory, disk and network of a training on more images, processes and GPUs."""
    screen = console(json)
    with screen.status("Starting"):
        from regraft.atomic_io import write_json
        from regraft.config import load_config
        from regraft.runs.plan import plan_from
    overrides = {
        "model.backbone": backbone, "model.image_size": image_size, "training.finetune_from": finetune_from,
        "data.group_by": group_by, "data.pool_by": pool_by, "data.task": task, "data.order": order,
        "data.label_separator": label_separator, **flags,
    }  # fmt: skip
    resolved = load_config(config, settings or [], overrides)
    refuse_flags_without_effect(resolved, flags)
    if rates and save_rates:
        raise UsageError("--save-rates writes speeds that are measured, and with --rates nothing is. Leave one out.")
    with rich_progress(screen) as reporter:
        plan, speeds = plan_from(
            data,
            resolved,
            reporter,
            images=images,
            processes=processes,
            gpus=gpus,
            cpus=cpus,
            rates=rates,
            disk_gb=disk_gb,
        )
    if save_rates:
        write_json(save_rates, speeds.to_json())
    if json:
        print_json({**plan.to_json(), "rates": speeds.to_json()})
        return
    for line in _lines(plan):
        screen.print(line)
    if save_rates:
        screen.print(escape(f"\n{save_rates}: the speeds of this machine, for --rates"))


def _lines(plan: ScalePlan) -> list[str]:
    from regraft.text import pluralize

    cluster = plan.cluster
    images = ", ".join(f"{count:,} {part}" for part, count in plan.images.items())
    machines = pluralize(cluster.processes, "process", "processes") + f", {pluralize(cluster.cpus, 'CPU')}"
    if cluster.gpus:
        machines += f", {pluralize(cluster.gpus, 'GPU')}"
    lines = ["", escape(f"{images} images in {pluralize(plan.views, 'view')}; {machines}."), ""]
    for step, seconds in sorted(plan.seconds.items(), key=lambda item: -item[1]):
        mark = "  <- bottleneck" if step == plan.bottleneck else ""
        lines.append(f"  {step:<10} {_duration(seconds):>12}{mark}")
    lines += [
        f"  {'total':<10} {_duration(plan.total):>12}",
        "",
        f"Memory of a process: {_bytes(plan.memory)}."
        + (f" Memory of a GPU: {_bytes(plan.gpu_memory)}." if cluster.gpus else "")
        + f" Disk for the cache: {_bytes(plan.disk)}.",
    ]
    if plan.live_prefix:
        lines.append("The outputs of frozen layers are not kept, so these layers run in every step.")
    if cluster.gpus:
        lines.append("The total counts reading, decoding and the frozen layers once, because they overlap.")
    if plan.step_bytes:
        lines.append(f"A process sends {_bytes(plan.step_bytes)} in each of {plan.steps:,} steps of fine-tuning.")
    if plan.measured_at:
        lines.append(
            f"The speeds were measured at {plan.measured_at} pixels. Those of the network, and its memory, are scaled "
            "by the number of pixels."
        )
    if plan.unmeasured:
        names = {"read_bytes": "reading from storage", "network_bytes": "sending between processes"}
        missing = " and ".join(names[name] for name in plan.unmeasured)
        keys = " and ".join(plan.unmeasured)
        lines.append(
            f"[yellow]Not included, because no rate is known: {missing}. Add {keys} to a file for --rates.[/yellow]"
        )
    return lines


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:.1f} kB"

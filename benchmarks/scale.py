"""Time, memory, disk and network of trainings on 10^5 to 10^9 images, by the arithmetic of `regraft plan`.

    python benchmarks/scale.py RATES.json [--record]

RATES.json has the speeds of one GPU with its CPUs, as `regraft plan DATA --save-rates RATES.json` writes them there.
`rates-assumed.json`, beside this file, has round numbers for a GPU with eight CPUs that nobody measured. The training
is the default one: EfficientNet-Lite0 at 224 pixels for 1,000 classes, 80 % of the images in the train part. There are
20 TB of disk for the cache, and 64 GB of memory. Nothing is trained.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from evidence import save, take_flag

from regraft.models.classifier import build
from regraft.training.budget import Room
from regraft.training.options import TrainingOptions
from regraft.training.scaling import Cluster, Rates, plan_scale

IMAGES = (10**5, 10**6, 10**8, 10**9)
GPUS = (1, 8, 64)
#: Epochs of fine-tuning: as many for few images as by default, and one or two passes where there are many.
EPOCHS = {10**5: 10, 10**6: 10, 10**8: 2, 10**9: 1}
_DISK = 20e12


def main() -> None:
    """Print the table, and record it if asked."""
    record = take_flag()
    rates = Rates.load(Path(sys.argv[1]))
    model = build("efficientnet_lite0", classes=tuple(map(str, range(1000))), image_size=224, weights="none")
    model.weights = replace(model.weights, source="wheel")  # a network without weights would train as a whole
    hours: dict[str, list[float]] = {}
    facts: dict[str, dict[str, str]] = {}
    for images in IMAGES:
        parts = {"train": int(0.8 * images), "val": int(0.1 * images), "test": int(0.1 * images)}
        for gpus in GPUS:
            options = TrainingOptions(finetune_epochs=EPOCHS[images], batch_size=max(32, 64 * gpus))
            plan = plan_scale(
                model,
                parts,
                options,
                rates,
                Cluster(gpus, gpus, gpus * rates.cpus),
                room=Room(int(_DISK), 64 * 10**9 // gpus),
            )
            name = f"{images:,} images, {gpus} GPU{'s' if gpus > 1 else ''}"
            hours[name] = [plan.total / 3600]
            facts[name] = {
                "bottleneck": plan.bottleneck,
                "frozen_layers": "in every step" if plan.live_prefix else f"{plan.views} cached views",
                "disk": f"{plan.disk / 1e9:,.0f} GB",
                "memory_of_a_process": f"{plan.memory / 1e9:.1f} GB",
                "sent_in_a_step": f"{plan.step_bytes / 1e6:.0f} MB",
            }
            print(f"{name:32} {plan.total / 3600:9.2f} h  {facts[name]}")
    if record:
        save("scale", hours, unit="hours", title="Trainings of any size", facts=facts)


if __name__ == "__main__":
    main()

"""Speed of prediction and fine-tuning with and without `keep_freed_memory`.

    python benchmarks/malloc.py [--record]

Each measurement is a separate process, with and without in turns. Prints medians and ranges of images/s
(EfficientNet-Lite0, batches of 32).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from evidence import save, take_flag

MEASURE = """
import json, sys, time, torch
from regraft.models import classifier
from regraft.models.cpu.conv_backward import FastGradients
if sys.argv[1] == "without":
    classifier.keep_freed_memory = lambda: False
model = classifier.build(classes=("a", "b"))
pixels = torch.randint(0, 256, (32, 3, 224, 224), dtype=torch.uint8)
rates = {}
for name, precision in (("predict f32", None), ("predict bf16", torch.bfloat16)):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision is not None):
        model(pixels)
        started = time.perf_counter()
        for _ in range(8):
            model(pixels)
    rates[name] = 256 / (time.perf_counter() - started)
boundary = model.resolve("auto")
model.freeze(boundary)
model.train()
with torch.no_grad():
    values = model.activations(pixels, boundary)
optimizer = torch.optim.AdamW([p for _, p in model.trainable_parameters()])
for step in range(10):
    if step == 2:
        started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16), FastGradients():
        loss = model.forward_from(values, boundary).float().square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
rates["fine-tune bf16"] = 256 / (time.perf_counter() - started)
print(json.dumps(rates))
"""


def main() -> None:
    """Measure in turns and print a table."""
    record = take_flag()
    results: dict[str, list[dict[str, float]]] = {"with": [], "without": []}
    for _ in range(5):
        for how, rows in results.items():
            done = subprocess.run([sys.executable, "-c", MEASURE, how], capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout))
    print(f"{'images/s':<16} {'with':>24} {'without':>24}  ratio of medians")
    for name in results["with"][0]:
        cells = []
        for rows in results.values():
            values = sorted(row[name] for row in rows)
            cells.append((statistics.median(values), f"{values[0]:.0f} to {values[-1]:.0f}"))
        (kept, kept_range), (plain, plain_range) = cells
        print(f"{name:<16} {kept:8.0f} ({kept_range:>13}) {plain:8.0f} ({plain_range:>13})  {kept / plain:.2f}")
    if record:
        rates = {
            f"{name}, memory {'kept' if how == 'with' else 'returned'}": [row[name] for row in rows]
            for name in results["with"][0]
            for how, rows in results.items()
        }
        save("malloc", rates, unit="images/s")


if __name__ == "__main__":
    main()

"""JPEG decoders: images/s of one thread, and the differences of their pixels.

    python benchmarks/decoders.py [--seconds 2] [--record]

The photograph is scikit-learn's `china.jpg`, encoded at several sizes and resized to 224 pixels after decoding.
simplejpeg is measured if it is installed.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from evidence import save, take_flag
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.io import ImageReadMode, decode_jpeg

from regraft.data.decode import decode_image

TARGET_SIZE = 224


def resized(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((TARGET_SIZE, TARGET_SIZE), Image.Resampling.BICUBIC))


def torchvision(data: bytes) -> np.ndarray:
    tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return decode_jpeg(tensor, mode=ImageReadMode.RGB).permute(1, 2, 0).contiguous().numpy()


def decoders() -> dict[str, Callable[[bytes], np.ndarray]]:
    """Return the decoders by name."""
    found: dict[str, Callable[[bytes], np.ndarray]] = {
        "Pillow, whole": lambda data: resized(decode_image(data)),
        "Pillow, scaled while decoding (regraft)": lambda data: resized(decode_image(data, at_least=2 * TARGET_SIZE)),
        "torchvision.io": lambda data: resized(torchvision(data)),
    }
    try:
        import simplejpeg
    except ImportError:
        return found
    found["simplejpeg"] = lambda data: resized(simplejpeg.decode_jpeg(data))
    found["simplejpeg, scaled while decoding"] = lambda data: resized(
        simplejpeg.decode_jpeg(data, min_height=2 * TARGET_SIZE, min_width=2 * TARGET_SIZE)
    )
    return found


def main() -> None:
    """Measure the decoders in turns and print a Markdown table."""
    record = take_flag()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds for each decoder and size, in five rounds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    photograph = Image.fromarray(load_sample_image("china.jpg"))
    print("| JPEG | decoder | images/s | largest and mean difference from the first decoder |")
    print("|---|---|---|---|")
    for width in (320, 640, 1280, 4000):
        file = io.BytesIO()
        image = photograph.resize((width, width * photograph.height // photograph.width), Image.Resampling.LANCZOS)
        image.save(file, "JPEG", quality=90)
        data, by_name = file.getvalue(), decoders()
        rates: dict[str, list[float]] = {name: [] for name in by_name}
        for _ in range(5):
            for name, decode in by_name.items():
                started, count = time.perf_counter(), 0
                while time.perf_counter() - started < options.seconds / 5:
                    decode(data)
                    count += 1
                rates[name].append(count / (time.perf_counter() - started))
        first = next(iter(by_name.values()))(data).astype(int)
        for name, decode in by_name.items():
            difference = np.abs(decode(data).astype(int) - first)
            print(
                f"| {image.width} x {image.height} | {name} | {median(rates[name]):.0f} "
                f"({min(rates[name]):.0f} to {max(rates[name]):.0f}) | {difference.max()}, {difference.mean():.2f} |"
            )
        if record:
            save(f"decoders-{width:04d}", rates, unit="images/s", title=f"{image.width} x {image.height}")


if __name__ == "__main__":
    main()

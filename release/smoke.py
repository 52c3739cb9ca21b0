"""What a user does first, with the installed package alone: train on drawn images, predict, export. Prints versions.

    python -I smoke.py [EXTRAS]

Runs in a fresh environment, whose Python and packages are those that are checked, so it needs nothing but regraft.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image


def main() -> None:
    """Raise an exception if something does not work."""
    extras = sys.argv[1].split(",") if sys.argv[1:] else []
    import regraft

    assert "site-packages" in regraft.__file__, regraft.__file__
    assert version("regraft") == regraft.__version__
    draw(Path("photos"))
    cli("train", "photos", "--out", "run", "--image-size", "32", "--finetune-epochs", "1", "--set", "training.views=2")
    files = sorted(Path("photos/red").iterdir())[:4]
    predictions = regraft.predict("run", files)
    assert [prediction.label for prediction in predictions] == ["red"] * 4, predictions
    cli("evaluate", "run")
    cli("predict", "run", str(files[0]), "--csv", "answers.csv")
    assert "red" in Path("answers.csv").read_text(encoding="utf-8")
    assert Path("run/report.html").stat().st_size > 10_000
    if "onnx" in extras:
        cli("export", "run", "--to", "onnx")
        cli("verify", "run/exports/onnx")
    print(f"python=={platform.python_version()}")
    for name in (
        "torch",
        "torchvision",
        "timm",
        "numpy",
        "pillow",
        "scipy",
        *(["onnxruntime"] if "onnx" in extras else []),
    ):
        print(f"{name}=={version(name)}")


def draw(folder: Path) -> None:
    """Draw three classes of 16 images, each a square of one color on noise."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for i in range(16):
            image = rng.integers(0, 90, (48, 48, 3), dtype=np.uint8)
            top, left = rng.integers(0, 16, 2)
            image[top : top + 32, left : left + 32, number] = 230
            Image.fromarray(image).save(folder / name / f"{i:02d}.png")


def cli(*words: str) -> None:
    """Run the command `regraft` of this environment."""
    done = subprocess.run([sys.executable, "-I", "-m", "regraft", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"regraft {' '.join(words)} failed ({done.returncode}):\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()

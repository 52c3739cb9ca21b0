"""The OpenAPI document, its examples and the client of the guide work.

The other commands of the guide are tested in tests/docs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from served import Server

ROOT = Path(__file__).parent.parent.parent.parent
GUIDE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


def test_responses_match_the_openapi_document(server: Server, tmp_path: Path) -> None:
    """A few examples for each operation; `benchmarks/fuzz_server.py` tries a thousand."""
    done = subprocess.run(
        [Path(sys.executable).parent / "schemathesis", "run", f"{server.address}/openapi.json", "--checks", "all",
         "--max-examples", "2", "--seed", "1", "--phases", "examples,coverage,fuzzing", "--generation-database",
         "none"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "fuzz_server", "REGRAFT_FUZZ_HOOKS": "1", "PYTHONUTF8": "1",
             "PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


def test_examples_of_the_document_work(server: Server) -> None:
    document = server.client.get("/openapi.json").json()
    tried = 0
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                for example in content.get("examples", {}).values():
                    version = server.client.get("/models").json()["models"][0]["version"]
                    address = path.replace("{name}", "squares").replace("{version}", version)
                    answer = server.client.request(
                        method, address, json=example["value"], headers={"Content-Type": kind}
                    )
                    assert answer.status_code == 200, answer.text
                    tried += 1
    assert tried == 4


def test_client_of_the_guide_works(server: Server, squares_folder: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"client.py -->\n```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    (tmp_path / "client.py").write_text(code)
    files = [squares_folder / "red" / "01.png", squares_folder / "red" / "broken.png"]
    done = subprocess.run(
        [sys.executable, "-I", "client.py", server.address, "squares", *map(str, files)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    good, bad = done.stdout.splitlines()
    assert re.fullmatch(r".*01\.png (red|green|blue|unknown) [01]\.\d{3}( \(not sure\))?", good)
    assert "cannot be read" in bad

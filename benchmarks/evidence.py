"""Raw results of benchmarks: JSON files in `benchmarks/results/` with all samples, the machine and the commit.

A benchmark calls `save` with its samples if its command has `--record`. `render.py` renders the tables of the
documentation from these files.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_ROOT = Path(__file__).parent.parent
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "pillow", "openvino", "scikit-learn")


def take_flag() -> bool:
    """Remove `--record` from `sys.argv`, and return whether it was there."""
    wanted = "--record" in sys.argv
    sys.argv[:] = [word for word in sys.argv if word != "--record"]
    return wanted


def save(
    name: str,
    measurements: Mapping[str, Sequence[float]],
    *,
    unit: str,
    title: str = "",
    facts: Mapping[str, Mapping[str, Any]] | None = None,
    data: Path | str | None = None,
    command: str = "",
) -> Path:
    """Write a result.

    Args:
        name: Name of the file, without its extension.
        measurements: Label -> samples in `unit`, in the order in which they were taken.
        unit: Unit of the samples, such as `images/s` or `s`.
        title: Name of the row if several files share a table.
        facts: Label -> further values, such as an accuracy.
        data: Folder or file with the images; its hash is recorded.
        command: Command that gives the result. Default: this process's.
    """
    facts = facts or {}
    result = {
        "name": name,
        "title": title or name,
        "command": command or shown_command(),
        "unit": unit,
        "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "environment": environment(),
        "data": hash_of(Path(data)) if data else None,
        "measurements": [
            {
                "label": label,
                "samples": [round(float(value), 6) for value in samples],
                "facts": dict(facts.get(label, {})),
            }
            for label, samples in measurements.items()
        ],
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"recorded in {file.relative_to(_ROOT)}", file=sys.stderr)
    return file


def commit() -> str:
    """The commit of the sources, marked if they have changes."""
    changes = "+changes" if _git("status", "--porcelain", "src") else ""
    return _git("rev-parse", "--short=12", "HEAD") + changes


def shown_command() -> str:
    """Return this process's command, with only the last name of paths outside the repository."""
    words = []
    for word in sys.argv[1:]:
        path = Path(word)
        words.append(path.name if path.is_absolute() or word.startswith("..") else word)
    script = Path(sys.argv[0]).resolve()
    where = script.relative_to(_ROOT).as_posix() if script.is_relative_to(_ROOT) else script.name
    return " ".join(["python", where, *words])


def environment() -> dict[str, Any]:
    """Describe processor, cores, memory, system and versions."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "load_before": round(os.getloadavg()[0], 2),
    }


def hash_of(folder: Path) -> dict[str, Any]:
    """Return name, number of files and SHA-256 over the sorted relative names and the contents; of a file, over it."""
    if folder.is_file():
        return {"name": folder.name, "files": 1, "sha256": hashlib.sha256(folder.read_bytes()).hexdigest()}
    digest, count = hashlib.sha256(), 0
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
        count += 1
    return {"name": folder.name, "files": count, "sha256": digest.hexdigest()}


def processor() -> str:
    """Name and family of the processor, and the instructions that matter here."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        values = dict(
            (key.strip(), value.strip())
            for key, _, value in (line.partition(":") for line in info.read_text().splitlines())
        )
        kinds = [name for name in ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx2") if name in values.get("flags", "")]
        return f"{values.get('model name', 'unknown')}, family {values.get('cpu family', '?')}, {', '.join(kinds)}"
    return platform.processor() or "unknown"


def _version(package: str) -> str | None:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return None


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=_ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()

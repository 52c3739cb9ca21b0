"""Render the tables of the documentation from the raw results in `benchmarks/results/`.

    python benchmarks/render.py            check that every table matches its results; exit with 1 if not
    python benchmarks/render.py --write    write the tables

A table is in a Markdown file between `<!-- table: NAME -->` and `<!-- /table -->`. NAME is the name of a result:
one row for each measurement. With a star (`prefix-*`) it is one row for each result and one column for each label.
Words after the name choose and order the facts that become columns. A cell is the median with the smallest and largest
sample. With `crossed` after the name, labels `ROW: COLUMN` make a table with a row for each ROW, whose cells have the
facts. Every result must be in a table, and every table must have its result.
"""

from __future__ import annotations

import json
import re
import sys
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
_TABLE = re.compile(r"(<!-- table: (\S+)((?: \S+)*) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)


def load() -> dict[str, dict[str, Any]]:
    """Read the results, by name."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))}


def number(value: float) -> str:
    """Format with three significant digits, without decimals above 100."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def cell(samples: list[float]) -> str:
    """Median and range."""
    if len(samples) == 1:
        return number(samples[0])
    return f"{number(median(samples))} ({number(min(samples))} to {number(max(samples))})"


def table(pattern: str, facts: list[str], results: dict[str, dict[str, Any]]) -> str:
    """Return a table as Markdown, with a line that names its commands and machines.

    Raises:
        KeyError: No result has this name.
    """
    chosen = {name: result for name, result in results.items() if fnmatch(name, pattern)}
    if not chosen:
        raise KeyError(f"no result {pattern}.json in benchmarks/results")
    first = next(iter(chosen.values()))
    if "*" in pattern:
        labels = list(dict.fromkeys(m["label"] for result in chosen.values() for m in result["measurements"]))
        head = ["", *(f"{label} ({first['unit']})" for label in labels)]
        rows = []
        for result in sorted(chosen.values(), key=lambda result: result["recorded"]):
            by_label = {m["label"]: m for m in result["measurements"]}
            rows.append([result["title"], *(cell(by_label[n]["samples"]) if n in by_label else "" for n in labels)])
    elif "crossed" in facts:
        shown = {
            m["label"]: ", ".join(str(m["facts"][name]) for name in facts[1:] if name in m["facts"])
            for m in first["measurements"]
        }
        columns = list(dict.fromkeys(label.partition(": ")[2] for label in shown))
        head = [", ".join([first["unit"], *facts[2:]]), *columns]
        rows = [
            [row, *(shown.get(f"{row}: {column}", "") for column in columns)]
            for row in dict.fromkeys(label.partition(": ")[0] for label in shown)
        ]
    else:
        head = ["", first["unit"], "runs", *(name.replace("_", " ") for name in facts)]
        rows = [
            [m["label"], cell(m["samples"]), str(len(m["samples"])), *(str(m["facts"].get(name, "")) for name in facts)]
            for m in first["measurements"]
        ]
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(["", *lines, "", source(chosen), ""])


def source(chosen: dict[str, dict[str, Any]]) -> str:
    """Describe the command, the machine and the files of the results."""
    results = list(chosen.values())
    commands = list(dict.fromkeys(result["command"] for result in results))
    machines = dict.fromkeys(
        f"{r['environment']['processor'].partition(',')[0]}, {r['environment']['cores']} cores, PyTorch "
        f"{r['environment']['packages'].get('torch', '?')}, {r['recorded'][:10]}"
        for r in results
    )
    shown = f"`{commands[0]}`" + (f" and {len(commands) - 1} more like it" if len(commands) > 1 else "")
    files = ", ".join(f"`{name}.json`" for name in chosen)
    return f"Command: {shown}. Machine: {'; '.join(machines)}. Raw results: {files} in `benchmarks/results/`."


def documents() -> list[Path]:
    """Return the Markdown files that may contain tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main() -> int:
    """Check the tables, or write them."""
    write, results = "--write" in sys.argv[1:], load()
    faults: list[str] = []
    used: set[str] = set()
    for file in documents():
        text = file.read_text(encoding="utf-8")

        def render(match: re.Match[str]) -> str:
            used.update(name for name in results if fnmatch(name, match[2]))
            return match[1] + table(match[2], match[3].split(), results) + match[5]

        try:
            rendered = _TABLE.sub(render, text)
        except KeyError as error:
            faults.append(f"{file.relative_to(ROOT)}: {error.args[0]}")
            continue
        if rendered != text and write:
            file.write_text(rendered, encoding="utf-8")
        elif rendered != text:
            faults.append(f"{file.relative_to(ROOT)}: a table differs from its result; run `make results`")
    faults += [f"benchmarks/results/{name}.json is in no table" for name in results if name not in used]
    print("\n".join(faults) or f"{len(results)} results, all rendered")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

"""What the `model.json` of a run says, read without loading a model.

Input: a text that may be the folder of a run. Output: its description, or the options of `build` that follow from it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from regraft.data.preprocessing import Preprocessing
from regraft.errors import WeightsError


def read_run_description(path: str) -> dict[str, Any]:
    """The `model.json` of a run's folder; {} if the text is not the path of one."""
    if not isinstance(path, str):  # its options are checked later
        return {}
    file = Path(path, "model.json")
    try:
        value = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{file} is damaged: {error}") from error
    return value if isinstance(value, dict) and "backbone" in value else {}


def options_of_run(path: str) -> dict[str, Any]:
    """The options of `build` that make the backbone of a run: its name, weights, image size and resizing; {} if none.

    `path` is the folder of a run; any other text gives {}.
    """
    if not (run := read_run_description(path)):
        return {}
    image = run["preprocessing"]
    name, size, resize = run["backbone"]["name"], Preprocessing.from_json(image).named_size, image["resize"]
    if several := run["backbone"].get("members"):  # each has a size of its own
        name, size = ",".join(f"{one['name']}@{one['preprocessing']['size']}" for one in several), 0
    return {"backbone": name, "weights": str(Path(path).resolve()), "image_size": size, "resize": resize}

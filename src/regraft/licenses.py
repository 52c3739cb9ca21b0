"""What the licenses of pretrained weights ask of the users of a model that is made from them: sentences, no advice.

Input: a license as timm, a wheel or the registry names it. Output: its name, where to read it, and its conditions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class License:
    """A license.

    Attributes:
        name: Identifier of SPDX, or its own name where it has none there; "" where nobody states one.
        url: Where to read it; "" where that is not known.
        conditions: What it asks beyond keeping its notices, in a few words; "" if nothing, None where not known.
        is_spdx: Whether the name is an identifier of SPDX.
    """

    name: str
    url: str = ""
    conditions: str | None = None
    is_spdx: bool = False


_NO_COMMERCE = "no commercial use"
_CREATIVE_COMMONS = "https://creativecommons.org/licenses"
#: By their names in timm and in the registry, in lower case.
_LICENSES = {
    "apache-2.0": License("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0", "", True),
    "mit": License("MIT", "https://opensource.org/license/mit", "", True),
    "bsd-3-clause": License("BSD-3-Clause", "https://opensource.org/license/bsd-3-clause", "", True),
    "cc-by-4.0": License("CC-BY-4.0", f"{_CREATIVE_COMMONS}/by/4.0/", "", True),
    "cc-by-nc-4.0": License("CC-BY-NC-4.0", f"{_CREATIVE_COMMONS}/by-nc/4.0/", _NO_COMMERCE, True),
    "dinov3": License(
        "DINOv3 License", "https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
        "on what the weights are used for, and on passing on the weights and what is made from them",
    ),
    "fair-noncommercial-research-license": License("FAIR Noncommercial Research License", "", _NO_COMMERCE),
    "apple-amlr": License("Apple Machine Learning Research Model License", "", "research only, no commercial use"),
}  # fmt: skip
_SAME = {"dinov3-license": "dinov3"}
#: What timm writes where there is no license with a name.
_UNSTATED = ("", "other", "unknown")


def find_license(name: str) -> License:
    """Return what is known of a license by its name, in any case."""
    key = name.strip().lower()
    if key in _UNSTATED:
        return License("")
    return _LICENSES.get(_SAME.get(key, key), License(name.strip()))


def describe_conditions(weights: Mapping[str, Any], published: str = "") -> list[str]:
    """Tell a commercial user the conditions of the licenses of pretrained weights, a sentence for each license.

    Args:
        weights: The source of the weights as in `model.json`: `source`, `name`, `license`, and `members` for several.
        published: License of the weights that are published for the backbone, for files whose own is not known.

    Returns:
        Nothing for random weights and where the licenses only ask to keep their notices.
    """
    members = weights.get("members") or [weights]
    return list(dict.fromkeys(text for one in members for text in _describe(one, published)))


def _describe(weights: Mapping[str, Any], published: str) -> Iterator[str]:
    source, name, stated = (str(weights.get(key) or "") for key in ("source", "name", "license"))
    found = find_license(stated)
    if source == "none" or found.conditions == "":
        return
    what = f"The pretrained weights{f' {name}' if source in ('hub', 'wheel') else ''}"
    if source not in ("hub", "wheel") and not found.name:
        ours = find_license(published)
        if ours.conditions:
            yield (
                "The license of the pretrained weights is not known. Those that are published for this backbone have "
                f"the {ours.name}, {_conditions(ours)}. {_where(ours.url)}"
            )
        return
    page = f"https://huggingface.co/{name}" if source == "hub" and "://" not in name else ""
    if found.name:
        yield f"{what} have the license {found.name}, {_conditions(found)}. {_where(found.url or page)}"
    else:
        yield f"{what} state no license. {_where(page)}"


def _conditions(found: License) -> str:
    return f"which has conditions: {found.conditions}" if found.conditions else "which may have conditions"


def _where(url: str) -> str:
    return f"Before you use the model commercially, read {url or 'what their publisher says'}"

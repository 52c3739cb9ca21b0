"""The notes of a version: its section of the changelog."""

from __future__ import annotations

import re

from failure import ReleaseError


def notes_of(changelog: str, version: str) -> str:
    """Return the section of a version, without its heading.

    Raises `ReleaseError` if there is none, or it is empty, or there are changes that no version has.
    """
    parts = (part.partition("\n") for part in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:])
    sections = {heading.split()[0].strip("[]"): text.strip() for heading, _, text in parts}
    below = f"`## {version} - YYYY-MM-DD`"
    if version not in sections:
        raise ReleaseError(f"CHANGELOG.md has no section {version}. Put its lines below {below}.")
    if re.search(r"^[^#\s]", sections.get("Unreleased", ""), re.MULTILINE):
        raise ReleaseError(
            f"CHANGELOG.md has lines below `## Unreleased`, which the notes of {version} would lack. "
            f"Move them below {below}, or raise the version."
        )
    if not sections[version]:
        raise ReleaseError(f"CHANGELOG.md says nothing of {version}.")
    return sections[version]

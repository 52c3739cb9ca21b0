"""The notes of a version: its section of the changelog."""

from __future__ import annotations

import re

from failure import ReleaseError


def notes_of(changelog: str, version: str) -> str:
    """Return the section of a version, without its heading. Raises `ReleaseError` if there is none, or it is empty."""
    sections = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    for section in sections:
        heading, _, text = section.partition("\n")
        if re.match(rf"\[?{re.escape(version)}\]?(\s|$)", heading):
            if not text.strip():
                raise ReleaseError(f"CHANGELOG.md says nothing of {version}.")
            return text.strip()
    raise ReleaseError(f"CHANGELOG.md has no section {version}. Put its lines below `## {version} - YYYY-MM-DD`.")

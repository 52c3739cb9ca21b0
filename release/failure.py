"""What ends a release."""

from __future__ import annotations


class ReleaseError(Exception):
    """A step of a release failed; its text says which, and what to do."""

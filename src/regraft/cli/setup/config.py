"""`regraft config`."""

from __future__ import annotations


def command() -> None:
    """Print every setting with its default and meaning, as TOML to start from."""
    from regraft.config import defaults_with_comments

    print(defaults_with_comments(), end="")

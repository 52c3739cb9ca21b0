"""A hook of MkDocs that adds what is written elsewhere: the README as the first page, the reference from the code.

Enters: README, CONTRIBUTING, CHANGELOG, the typer application, the settings, `regraft.__all__`. Leaves: pages that
exist only in the built site, so that they cannot differ from what they describe.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent.parent


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from the code."""
    made = {
        "reference/commands.md": commands(),
        "reference/settings.md": settings(),
        "reference/python.md": python_names(),
        "index.md": root_page("README.md"),
        "contributing.md": root_page("CONTRIBUTING.md"),
        "changelog.md": root_page("CHANGELOG.md"),
    }
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def root_page(name: str) -> str:
    """A page of the repository's root, with its links as they are from the site's."""
    text = (ROOT / name).read_text(encoding="utf-8")
    text = text.replace("(docs/", "(").replace('"docs/', '"').replace("[notebook](notebooks/regraft.ipynb)", "notebook")
    return text.replace("(CONTRIBUTING.md)", "(contributing.md)").replace("(CHANGELOG.md)", "(changelog.md)")


def commands() -> str:
    """Every command with its arguments and options, as `--help` has them."""
    import typer
    from typer.cli import get_docs_for_click

    from regraft.cli import app

    command = typer.main.get_command(app)
    for one in getattr(command, "commands", {}).values():
        one.short_help = (one.help or "").partition("\n\n")[0]  # in whole; else it is cut after 45 letters
    text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="regraft"), name="regraft")
    text = re.sub(r"\[/?(?:bold|dim)\]", "", text)
    # "{data}" of the usage lines, as people know it
    text = re.sub(r"(?m)^(\$ regraft .*)$", lambda line: line[1].replace("{", "").replace("}", ""), text)
    return text.replace("# `regraft`\n", "# Commands\n", 1)


def settings() -> str:
    """The configuration with every default and its comment, which `regraft config` prints."""
    from regraft.config import defaults_with_comments

    return (
        "# Settings\n\nEvery setting with its default, as `regraft config` prints it. Give a file of those that you "
        "change with\n`--config FILE`, or single ones with `--set training.finetune_epochs=20`.\n\n"
        f"```toml\n{defaults_with_comments()}```\n"
    )


def python_names() -> str:
    """Every public name, functions first, from their docstrings."""
    import regraft

    functions = [n for n in regraft.__all__ if inspect.isfunction(getattr(regraft, n))]
    classes = [n for n in regraft.__all__ if inspect.isclass(getattr(regraft, n))]
    home = {n: getattr(regraft, n).__module__ for n in functions + classes}
    text = "# Python\n\nWhat `import regraft` offers. The same verbs as the commands, with plain keywords.\n"
    for name in functions + classes:
        text += f"\n::: {home[name]}.{name}\n"
    return text

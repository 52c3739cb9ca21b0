"""A hook of MkDocs that adds the README as the first page and the reference from the code.

Input: README, CONTRIBUTING, CHANGELOG, the typer application, the settings and `regraft.__all__`. Output: pages that
exist only in the built site, so that they cannot be out of date.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent.parent


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    generated = {
        "reference/commands.md": commands(),
        "reference/settings.md": settings(),
        "reference/python.md": python_names(),
        "index.md": root_page("README.md"),
        "contributing.md": root_page("CONTRIBUTING.md"),
        "changelog.md": root_page("CHANGELOG.md"),
    }
    for name, content in generated.items():
        files.append(File.generated(config, name, content=content))
    return files


def root_page(name: str) -> str:
    """Read a page of the repository's root and make its links relative to the site."""
    text = (ROOT / name).read_text(encoding="utf-8")
    text = text.replace("(docs/", "(").replace('"docs/', '"').replace("[notebook](notebooks/regraft.ipynb)", "notebook")
    return text.replace("(CONTRIBUTING.md)", "(contributing.md)").replace("(CHANGELOG.md)", "(changelog.md)")


def commands() -> str:
    """Document every command with its arguments and options, as `--help` does."""
    import typer
    from typer.cli import get_docs_for_click

    from regraft.cli import app

    command = typer.main.get_command(app)
    for subcommand in getattr(command, "commands", {}).values():
        subcommand.short_help = (subcommand.help or "").partition("\n\n")[0]  # typer cuts it after 45 characters
    text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="regraft"), name="regraft")
    text = re.sub(r"\[/?(?:bold|dim)\]", "", text)
    # "{data}" in the usage lines becomes "data".
    text = re.sub(r"(?m)^(\$ regraft .*)$", lambda line: line[1].replace("{", "").replace("}", ""), text)
    return text.replace("# `regraft`\n", "# Commands\n", 1)


def settings() -> str:
    """Document every setting with its default and description."""
    from regraft.config import defaults_with_comments

    return (
        "# Settings\n\nEvery setting with its default, as `regraft config` prints them. Pass a file with the settings "
        "that you change with\n`--config FILE`, or single settings with `--set training.finetune_epochs=20`.\n\n"
        f"```toml\n{defaults_with_comments()}```\n"
    )


def python_names() -> str:
    """Document every public name from its docstring, functions first."""
    import regraft

    functions = [n for n in regraft.__all__ if inspect.isfunction(getattr(regraft, n))]
    classes = [n for n in regraft.__all__ if inspect.isclass(getattr(regraft, n))]
    module = {n: getattr(regraft, n).__module__ for n in functions + classes}
    text = "# Python\n\nThe public API of `import regraft`. Functions are named like the commands.\n"
    for name in functions + classes:
        text += f"\n::: {module[name]}.{name}\n"
    return text

"""`regraft sign RUN|EXPORT...`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from rich.markup import escape
from typer import Argument, Option

from regraft.cli.options import Json
from regraft.cli.output import console, err, print_json
from regraft.errors import UsageError
from regraft.text import in_shell

_PASSPHRASE = "REGRAFT_KEY_PASSPHRASE"


def command(
    folders: Annotated[
        list[Path] | None, Argument(metavar="FOLDER...", help="Runs or exports; the exports in a run before it.")
    ] = None,
    key: Annotated[Path | None, Option(metavar="FILE", help="Private key: PEM of an elliptic curve.")] = None,
    keyless: Annotated[bool, Option("--keyless", help="Sign by your identity, which Sigstore certifies.")] = False,
    new_key: Annotated[
        Path | None, Option(metavar="FILE", help="Make a private key, such as x.pem, and its public key x.pub.")
    ] = None,
    passphrase_file: Annotated[
        Path | None, Option(metavar="FILE", help=f"File with the key's passphrase. Default: ${_PASSPHRASE}.")
    ] = None,
    json: Json = False,
) -> None:
    """Sign every file of runs and exports, so that `verify --signature` finds any change."""
    if sum((key is not None, keyless, new_key is not None)) != 1:
        raise UsageError("Expected one of --key FILE, --keyless and --new-key FILE.")
    if new_key is not None and folders:
        raise UsageError(
            f"--new-key only makes a key. Then sign: regraft sign {in_shell(folders[0])} --key {in_shell(new_key)}"
        )
    if new_key is None and not folders:
        raise UsageError("No folder is given; expected the folders of runs or exports.")
    screen = console(json)
    with screen.status("Starting"):
        from regraft.signing.signature import check_extra, sign

        check_extra()
        from regraft.signing import keys
    if new_key is not None:
        public = keys.new_key(new_key, _passphrase(passphrase_file))
        if json:
            print_json({"private_key": str(new_key), "public_key": str(public)})
            return
        screen.print(f"Private key: {escape(str(new_key))}   [dim]keep it to yourself, and out of runs[/dim]")
        screen.print(f"Public key:  {escape(str(public))}   [dim]for everybody who verifies[/dim]")
        return
    passphrase = _passphrase(passphrase_file) if key is not None else None
    if key is not None and passphrase is None and sys.stdin.isatty() and keys.needs_passphrase(key):
        passphrase = err.input(f"Passphrase of {escape(str(key))}: ", password=True)
    signatures = [sign(folder, key=key, passphrase=passphrase) for folder in folders or ()]
    if json:
        print_json([str(file) for file in signatures])
        return
    for file in signatures:
        screen.print(f"Signed: {escape(str(file))}")
    who = "--identity NAME --issuer URL"
    if key is not None:
        public = key.with_suffix(".pub")
        who = f"--key {in_shell(public) if public.is_file() else 'PUBLIC_KEY'}"
    folder = in_shell(signatures[0].parent)
    screen.print(f"\n[bold]Try next[/bold]\n  regraft verify {escape(f'{folder} --signature {who}')}")


def _passphrase(file: Path | None) -> str | None:
    """Read the passphrase from a file or the environment: every user of a machine can read command lines."""
    if file is not None:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    return os.environ.get(_PASSPHRASE) or None

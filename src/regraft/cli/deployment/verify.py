"""`regraft verify EXPORT`, and `regraft verify RUN|EXPORT --signature`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.markup import escape
from typer import Argument, Option

from regraft.cli.options import Json, Trust
from regraft.cli.output import console, print_json
from regraft.errors import ExportError, UsageError


def command(
    folder: Annotated[Path, Argument(metavar="EXPORT", help="Folder of an export; with --signature also a run.")],
    signature: Annotated[bool, Option("--signature", help="Check who signed, and every file, instead.")] = False,
    key: Annotated[Path | None, Option(metavar="FILE", help="The signer's public key.")] = None,
    identity: Annotated[str | None, Option(metavar="NAME", help="Who signed without a key.")] = None,
    issuer: Annotated[str | None, Option(metavar="URL", help="Service that certified the identity.")] = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Check that an export's files are unchanged and that its predictions agree with the run's (else exit code 1)."""
    screen = console(json)
    if signature:
        _verify_signature(folder, key, identity, issuer, json)
        return
    if key or identity or issuer:
        raise UsageError("--key, --identity and --issuer are for a signature. Add --signature.")
    if (folder / "model.json").is_file():
        raise ExportError(
            f"{folder} is a run, whose signature can be verified: --signature --key FILE. Expected an export."
        )
    with screen.status("Starting"):
        from regraft.exporting.verify import verify

        parity = verify(folder, trust=trust)
    if json:
        print_json(parity.to_json())
        return
    screen.print(
        f"{escape(str(folder))}: the files are unchanged, and the export predicts as it did on {parity.images} images "
        f"(largest difference of a probability {parity.largest_difference:.1e})."
    )


def _verify_signature(folder: Path, key: Path | None, identity: str | None, issuer: str | None, json: bool) -> None:
    screen = console(json)
    with screen.status("Starting"):
        from regraft.signing.signature import verify_signature

        found = verify_signature(folder, key=key, identity=identity, issuer=issuer)
    if json:
        print_json(found.to_json())
        return
    screen.print(escape(f"{folder}: {found.describe()}. Nothing was changed, added or removed since."))

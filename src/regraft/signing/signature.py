"""Sign the folder of a run or an export, and verify its signature.

Input: a folder and a key, or an identity of Sigstore. Output: `model.sig` in it, or an error that names what differs.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import io
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.atomic_io import write_text
from regraft.errors import MissingExtraError, SignatureError, UsageError, as_path, suggest_names
from regraft.text import in_shell, join_truncated, pluralize

if TYPE_CHECKING:
    from regraft.signing.every_file import EveryFile

_MODULES = ("model_signing", "cryptography", "sigstore")
#: Files by which a folder is a run or an export, and the one of a run that is being trained.
_RUN, _EXPORT, _LOCK = "model.json", "export.json", ".lock"
#: Largest size in bytes of a signature, and number of files of each kind that a message names.
_MAX_BYTES, _SHOWN = 64 * 2**20, 5


@dataclass(frozen=True)
class Signature:
    """A valid signature: the folder, its number of files without the signature, and who signed.

    `signer` is the SHA-256 of the public key, or the identity.
    """

    path: Path
    files: int
    signer: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "path": str(self.path)}

    def describe(self) -> str:
        """Who signed what, in words."""
        return f"{pluralize(self.files, 'file')}, signed by {self.signer}"


@suggest_names
def sign(path: Path | str, *, key: Path | str | None = None, passphrase: str | None = None) -> Path:
    """Sign every file of a run or an export; a signature that is there is replaced.

    Args:
        path: The folder. Whatever is changed, added or removed in it afterwards makes the signature invalid.
        key: File of the private key: PEM of an elliptic curve. Default: none, but Sigstore certifies the identity of
            this person or build.
        passphrase: The passphrase of the key, if it is encrypted.

    Returns:
        The file with the signature.

    Raises:
        MissingExtraError: The extra `sign` is not installed.
        UsageError: The folder is neither a run nor an export, or the key is missing, damaged, of the wrong kind or in
            the folder itself.
        SignatureError: The folder contains a link or a run that is being trained, or Sigstore cannot be reached.

    Examples:
        >>> regraft.sign("runs/photos", key="signing.pem").name
        'model.sig'
    """
    check_extra()
    from model_signing import signing

    from regraft.signing.every_file import SIGNATURE, EveryFile, list_files

    given = as_path(path, "The folder to sign")
    if not any((given / name).is_file() for name in (_RUN, _EXPORT)):
        raise UsageError(f"{given} is neither a run nor an export: it has no {_RUN} and no {_EXPORT}.")
    folder = given.resolve()
    if (folder / _LOCK).exists():
        raise SignatureError(
            f"{given} is being trained, or its training was killed. Sign it when it is done; `regraft train --resume "
            f"{given}` continues it."
        )
    list_files(folder)  # before a passphrase is used or a browser opens
    config = signing.Config()  # type: ignore[no-untyped-call]  # the library does not annotate it
    config.set_hashing_config(EveryFile())
    with tempfile.TemporaryDirectory() as elsewhere:  # so that the folder has no new file while it is hashed
        file = Path(elsewhere, SIGNATURE)
        if key is None:
            from regraft.signing.keyless import sign_keyless

            sign_keyless(config, folder, file)
        else:
            from regraft.signing.keys import check_private_key

            private = as_path(key, "The private key")
            check_private_key(private, passphrase)
            if private.resolve().is_relative_to(folder):
                raise UsageError(f"The private key {private} is in {given} itself, and would travel with it. Move it.")
            secret: Any = passphrase.encode() if passphrase else None  # the library takes what cryptography takes
            config.use_elliptic_key_signer(private_key=private, password=secret).sign(folder, file)
        write_text(folder / SIGNATURE, file.read_text(encoding="utf-8"))
    return given / SIGNATURE


@suggest_names
def verify_signature(
    path: Path | str, *, key: Path | str | None = None, identity: str | None = None, issuer: str | None = None
) -> Signature:
    """Verify that a run or an export is signed, and that every file in it is what was signed.

    Args:
        path: The folder.
        key: File of the signer's public key, in PEM.
        identity: In place of a key, who signed without one, such as an e-mail address.
        issuer: URL of the service that certified the identity.

    Raises:
        MissingExtraError: The extra `sign` is not installed.
        UsageError: There is no such folder, or not a key or an identity to verify with.
        SignatureError: There is no signature, it is not by this key or identity, or a file was changed, added or
            removed since; the message names it.

    Examples:
        >>> regraft.verify_signature("runs/photos", key="signing.pub").path.name
        'photos'
    """
    check_extra()
    from model_signing import verifying

    from regraft.signing.every_file import SIGNATURE, EveryFile

    given = as_path(path, "The folder")
    if not given.is_dir():
        raise UsageError(f"{given} is not a folder. Expected a run or an export.")
    if (key is None) != (identity is not None and issuer is not None) or (identity is None) != (issuer is None):
        raise UsageError(
            "A signature says nothing without who shall have signed: expected the public key (--key FILE), or an "
            "identity and its issuer (--identity NAME --issuer URL)."
        )
    folder, every = given.resolve(), EveryFile()
    config = verifying.Config()  # type: ignore[no-untyped-call]  # the library does not annotate it
    file = folder / SIGNATURE
    if file.is_symlink() or not file.is_file():
        raise SignatureError(
            f"{given} is not signed: it has no file {SIGNATURE}. `regraft sign {in_shell(given)}` signs it."
        )
    if file.stat().st_size > _MAX_BYTES:
        raise SignatureError(f"{given / SIGNATURE} has {file.stat().st_size:,} bytes, and is no signature.")
    if key is not None:
        from regraft.signing.keys import check_public_key, fingerprint

        public = as_path(key, "The public key")
        check_public_key(public)
        if public.resolve().is_relative_to(folder):
            raise UsageError(f"The public key {public} is in {given} itself. Expected one that the signer gave you.")
        signer = f"the key {fingerprint(public)}"
        config.use_elliptic_key_verifier(public_key=public)
    else:
        from regraft.signing.keyless import use_identity

        assert identity is not None
        assert issuer is not None
        use_identity(config, identity, issuer)
        signer = f"{identity}, by {issuer}"
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # where the library prints advice
            config.set_hashing_config(every).verify(folder, file)
    except (OSError, SignatureError):
        raise
    except Exception as error:  # a damaged signature raises whatever its parsers raise
        if every.found is None:
            raise SignatureError(f"{given / SIGNATURE} is damaged, or not by {signer}.") from error
        raise SignatureError(
            f"{given} is not what was signed: {_differences(file, every)}. If this is meant, sign it again; else get "
            "it again from where it is from."
        ) from error
    return Signature(given, len(every.digests()), signer)


def check_extra() -> None:
    """Raise `MissingExtraError` if the extra `sign` is not installed."""
    if missing := [name for name in _MODULES if importlib.util.find_spec(name) is None]:
        raise MissingExtraError(f"A signature ({join_truncated(missing)})", "sign")


def _differences(file: Path, every: EveryFile) -> str:
    """Which files are not those of an authentic signature."""
    found = every.digests()
    try:
        bundle = json.loads(file.read_text(encoding="utf-8"))
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        signed = {str(one["name"]): str(one["digest"]) for one in statement["predicate"]["resources"]}
    except (ValueError, KeyError, TypeError):  # another program's earlier format
        return "the hashes differ"
    kinds = {
        "changed": [name for name in found if name in signed and found[name] != signed[name]],
        "added": [name for name in found if name not in signed],
        "removed": [name for name in signed if name not in found],
    }
    texts = (f"{kind}: {join_truncated(sorted(names), shown=_SHOWN)}" for kind, names in kinds.items() if names)
    return "; ".join(texts) or "the hashes differ"

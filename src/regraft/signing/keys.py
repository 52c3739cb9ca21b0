"""The keys of signatures: PEM files with a key of an elliptic curve, as `openssl ecparam -genkey` makes them, too.

Input: a file. Output: nothing, or a `UsageError` that says what the file is and what was expected.
"""

from __future__ import annotations

import os
import re
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from regraft.atomic_io import write_text
from regraft.errors import UsageError, cause_of
from regraft.text import in_shell

#: Curves that model-signing supports; the first is that of new keys.
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
#: Largest size in bytes of a file that is read as a key.
_MAX_BYTES = 100_000
_LABEL = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")


def new_key(file: Path, passphrase: str | None = None) -> Path:
    """Write a new private key that only its owner may read, and the public key beside it, whose path is returned.

    Raises:
        UsageError: A file of that name exists; a key is never overwritten.
    """
    public = file.with_suffix(".pub")
    if public == file:
        raise UsageError(f"{file}: the public key gets the suffix .pub. Give the private key another, such as .pem.")
    for path in (file, public):
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} exists already, and a key is never overwritten. Choose another name.")
    key = ec.generate_private_key(ec.SECP256R1())
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    content = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as stream:
        stream.write(content)
    write_text(public, _public_pem(key.public_key()).decode())
    return public


def needs_passphrase(file: Path) -> bool:
    """Whether a private key is encrypted; raises `UsageError` if the file cannot be read."""
    content = _read(file, "a private key")
    return b"BEGIN ENCRYPTED PRIVATE KEY" in content or b"Proc-Type: 4,ENCRYPTED" in content


def check_private_key(file: Path, passphrase: str | None) -> None:
    """Raise `UsageError` unless the file is a private key that signs, and the passphrase opens it."""
    content = _read(file, "a private key")
    hint = f"`regraft sign --new-key {in_shell(file.with_suffix('.new'))}` makes one."
    if not any(label.endswith(b"PRIVATE KEY") for label in _LABEL.findall(content)):
        _refuse(file, content, "a private key of an elliptic curve in PEM", hint)
    is_encrypted = needs_passphrase(file)
    if is_encrypted and not passphrase:
        raise UsageError(
            f"{file} has a passphrase. Give it in a file, --passphrase-file FILE, in $REGRAFT_KEY_PASSPHRASE, or in a "
            "terminal when you are asked."
        )
    if passphrase and not is_encrypted:
        raise UsageError(f"{file} has no passphrase, and one is given. Leave it out, or encrypt the key.")
    try:
        key = serialization.load_pem_private_key(content, passphrase.encode() if passphrase else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = "the passphrase is wrong, or the file is damaged" if is_encrypted else "it is damaged"
        raise UsageError(f"{file} cannot be read as a private key: {reason}.") from error
    _check_curve(file, key, ec.EllipticCurvePrivateKey, hint)


def check_public_key(file: Path) -> None:
    """Raise `UsageError` unless the file is a public key that signatures can be verified with."""
    content, hint = _read(file, "a public key"), f"openssl ec -in {file} -pubout -out {file.with_suffix('.pub')}"
    if b"PUBLIC KEY" not in _LABEL.findall(content):
        _refuse(file, content, "the public key of the signer, in PEM", f"Of a private key: {hint}")
    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{file} cannot be read as a public key: it is damaged.") from error
    _check_curve(file, key, ec.EllipticCurvePublicKey, "`regraft sign --new-key FILE` makes a pair of keys.")


def fingerprint(file: Path) -> str:
    """The SHA-256, in hexadecimal, of the public key in a file that `check_public_key` accepts; as in signatures."""
    key = serialization.load_pem_public_key(file.read_bytes())
    return sha256(_public_pem(key)).hexdigest()


def _public_pem(key: Any) -> bytes:
    content: bytes = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return content


def _read(file: Path, expected: str) -> bytes:
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{file} has {file.stat().st_size:,} bytes; expected {expected} in PEM, a few hundred.")
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {cause_of(error)}. Expected {expected}.") from error


def _refuse(file: Path, content: bytes, expected: str, hint: str) -> NoReturn:
    labels = [label.decode().lower() for label in _LABEL.findall(content)]
    found = f"contains: {', '.join(labels)}" if labels else "is no PEM file"
    raise UsageError(f"{file} {found}. Expected {expected}. {hint}")


def _check_curve(file: Path, key: Any, kind: type, hint: str) -> None:
    if not isinstance(key, kind):
        raise UsageError(f"{file} has a key of another kind (RSA, for example). Expected an elliptic curve. {hint}")
    curve = key.curve.name  # type: ignore[attr-defined]  # both kinds have one
    if curve not in _CURVES:
        raise UsageError(f"{file} has a key of the curve {curve}. Expected {', '.join(_CURVES)}. {hint}")

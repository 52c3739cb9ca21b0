"""Keys of signatures: what openssl makes is read, and what is no key is explained."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from regraft.errors import UsageError
from regraft.signing.keys import check_private_key, check_public_key, fingerprint, new_key

PKCS8, OPENSSL = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL


def _write(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey, folder: Path,
           form: serialization.PrivateFormat = PKCS8, before: str = "") -> Path:  # fmt: skip
    file = folder / "key.pem"
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    file.write_bytes(before.encode() + pem)
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    file.with_suffix(".pub").write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, info))
    return file


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
@pytest.mark.parametrize("form", [PKCS8, OPENSSL])
def test_keys_of_openssl_are_read(curve: ec.EllipticCurve, form: serialization.PrivateFormat, tmp_path: Path) -> None:
    file = _write(ec.generate_private_key(curve), tmp_path, form)
    check_private_key(file, None)
    check_public_key(file.with_suffix(".pub"))
    assert len(fingerprint(file.with_suffix(".pub"))) == 64


@pytest.mark.parametrize(
    "key", [rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate(),
            ec.generate_private_key(ec.SECP256K1())],
)  # fmt: skip
def test_other_kinds_of_keys_are_refused(key: rsa.RSAPrivateKey, tmp_path: Path) -> None:
    file = _write(key, tmp_path)
    with pytest.raises(UsageError, match=r"Expected an elliptic curve|Expected secp256r1"):
        check_private_key(file, None)
    with pytest.raises(UsageError, match=r"Expected an elliptic curve|Expected secp256r1"):
        check_public_key(file.with_suffix(".pub"))


def test_what_is_no_key_is_explained(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    public = new_key(key)
    folder, text, large, damaged = (tmp_path / name for name in ("folder", "text", "large", "damaged"))
    folder.mkdir()
    text.write_text("no key")
    large.write_bytes(bytes(200_000))
    damaged.write_text(key.read_text().replace("M", "A"))
    for file, words in (
        (tmp_path / "missing", "No such file"), (folder, "cannot be read"), (text, "is no PEM file"),
        (large, "has 200,000 bytes"), (public, "contains: public key. Expected a private key"),
        (damaged, "it is damaged"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            check_private_key(file, None)
    for file, words in ((key, "contains: private key. Expected the public key"), (text, "is no PEM file")):
        with pytest.raises(UsageError, match=words):
            check_public_key(file)
    with pytest.raises(UsageError, match="has no passphrase, and one is given"):
        check_private_key(key, "secret")
    with pytest.raises(UsageError, match="Give the private key another"):
        new_key(tmp_path / "other.pub")
    with pytest.raises(UsageError, match="never overwritten"):
        new_key(public.with_suffix(".new").with_suffix(".pem"))

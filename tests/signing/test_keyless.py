"""Signatures without a key, where Sigstore cannot be reached: a clear error, soon."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from terminal import regraft

from regraft.errors import SignatureError, UsageError
from regraft.signing import keyless
from regraft.signing.signature import sign, verify_signature

WHO = {"identity": "me@example.org", "issuer": "https://accounts.example.org"}


@pytest.fixture
def silent_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All connections go to a server that accepts them and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        for name in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield


def test_no_connection_is_an_error_at_once(run: Path, signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    done = regraft("sign", run, "--keyless")
    assert done.returncode == 1
    assert "Sigstore (https://tuf-repo-cdn.sigstore.dev) cannot be reached" in done.stderr
    assert "sign with a key" in done.stderr
    with pytest.raises(SignatureError, match="cannot be reached"):
        verify_signature(signed, **WHO)


def test_a_server_that_never_answers_ends_at_the_deadline(
    run: Path, signed: Path, silent_proxy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyless, "_SECONDS", 0.5)
    monkeypatch.setenv(keyless.TOKEN, "a.b.c")
    started = time.monotonic()
    for attempt in (lambda: sign(run), lambda: verify_signature(signed, **WHO)):
        with pytest.raises(SignatureError, match=r"did not answer within 0\.5 s.*sign with a key"):
            attempt()
    assert time.monotonic() - started < 60
    assert not (run / "model.sig").exists()


def test_without_an_identity_nobody_waits_for_a_browser(
    run: Path, silent_proxy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(keyless.TOKEN, raising=False)
    monkeypatch.setattr("sigstore.oidc.detect_credential", lambda: None)  # this is no build
    with pytest.raises(UsageError, match="There is no identity to sign with"):
        sign(run)


def test_what_sigstore_says_is_passed_on(run: Path, silent_proxy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class RefusesTokens:
        def use_sigstore_signer(self, **_: object) -> None:
            raise ValueError("the token has expired\nmore")

    monkeypatch.setenv(keyless.TOKEN, "a.b.c")
    with pytest.raises(SignatureError, match=r"Sigstore failed: the token has expired\. "):
        keyless.sign_keyless(RefusesTokens(), run, run / "never")  # type: ignore[arg-type]  # what it does is tested

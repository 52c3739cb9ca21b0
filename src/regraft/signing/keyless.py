"""Signatures without a key: Sigstore certifies an identity, such as an e-mail address, for a few minutes.

Its servers certify, log the signature, and are asked for the trusted roots when one is verified, so that all of it
needs a network. Nothing here waits for longer than a deadline.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from model_signing import signing, verifying

from regraft.errors import SignatureError, UsageError, cause_of
from regraft.network import check_reachable

#: Variable with the identity token of a person or a build; else that of the build service, or the browser is asked.
TOKEN = "SIGSTORE_IDENTITY_TOKEN"
#: Where the trusted roots of Sigstore's public instance are.
_ROOTS = "https://tuf-repo-cdn.sigstore.dev"
#: Seconds for a signature or its check, and where a person signs in with a browser.
_SECONDS, _BROWSER_SECONDS = 300.0, 900.0
_OTHERWISE = "Without Sigstore, sign with a key: `regraft sign FOLDER --key FILE`."
R = TypeVar("R")


def sign_keyless(config: signing.Config, folder: Path, file: Path) -> None:
    """Write the signature of a folder by the identity of this person or build to `file`.

    Raises:
        UsageError: There is no identity: no token, no build service that gives one, and no terminal.
        SignatureError: Sigstore cannot be reached, refused, or did not answer in time.
    """
    _check_reachable()
    token = os.environ.get(TOKEN) or _within(_SECONDS, _token_of_build)
    if not token and not sys.stdin.isatty():
        raise UsageError(
            f"There is no identity to sign with: ${TOKEN} is not set, no build service gives a token, and there is no "
            f"terminal to sign in from. {_OTHERWISE}"
        )

    def work() -> None:
        config.use_sigstore_signer(identity_token=token).sign(folder, file)

    _within(_SECONDS if token else _BROWSER_SECONDS, work)


def use_identity(config: verifying.Config, identity: str, issuer: str) -> None:
    """Have `config` verify that a signature is by this identity, as `issuer` has certified.

    Raises:
        SignatureError: Sigstore's trusted roots cannot be fetched.
    """
    _check_reachable()
    _within(_SECONDS, lambda: config.use_sigstore_verifier(identity=identity, oidc_issuer=issuer))


def _token_of_build() -> str | None:
    from sigstore.oidc import detect_credential

    return detect_credential()


def _check_reachable() -> None:
    try:
        check_reachable(_ROOTS)
    except OSError as error:
        raise SignatureError(f"Sigstore ({_ROOTS}) cannot be reached: {cause_of(error)}. {_OTHERWISE}") from error


def _within(seconds: float, work: Callable[[], R]) -> R:
    """The result of `work`; raises `SignatureError` if it fails or takes longer. It then ends with the process."""
    results: list[R] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # also an exit: it is raised where it is waited for
            errors.append(error)

    thread = threading.Thread(target=run, name="sigstore", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        if isinstance(errors[0], (SignatureError, UsageError)) or not isinstance(errors[0], Exception):
            raise errors[0]
        first_line = (str(errors[0]).strip() or type(errors[0]).__name__).splitlines()[0]
        raise SignatureError(f"Sigstore failed: {first_line}. {_OTHERWISE}") from errors[0]
    if not results:
        raise SignatureError(f"Sigstore did not answer within {seconds:g} s. {_OTHERWISE}")
    return results[0]

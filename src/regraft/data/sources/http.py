"""Fetch single files from a web server, which cannot list its files; errors show no credentials."""

from __future__ import annotations

import base64
import http.client
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from regraft.data.sources.urls import is_within, redact
from regraft.data.storage import FILE_LIMIT, Directory, Listing, TruncatedFileError

#: Seconds without data after which a request fails.
_TIMEOUT = 30.0
#: Status codes after which a request is sent once more, and the seconds before that.
_BUSY, _PAUSE = (429, 500, 502, 503, 504), 1.0
_CHUNK = 2**20
#: Characters of a URL that are sent as they are; others, such as spaces in a manifest's paths, are encoded.
_PLAIN = "%/:?#[]@!$&'()*+,;=~"


@dataclass(frozen=True)
class WebFolder:
    """Files below a web address, `http` or `https`, without a slash at the end."""

    url: str

    @property
    def top(self) -> Directory:
        """Empty: a web server does not list its files."""
        return Listing()

    def exists(self, name: str) -> bool:
        """Whether the name may be a file: it has no spaces around it."""
        return name == name.strip()

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        if not is_within(name):
            raise ValueError(f"{name} leads out of {redact(self.url)}")
        return fetch(f"{self.url}/{quote(name)}")

    source = read

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """None: a server need not say when a file changes."""
        return None


def fetch(url: str) -> bytes:
    """Download a file; only its own server gets credentials. `OSError` if it is missing, too large or truncated."""
    for last in (False, True):
        try:
            return _download(url)
        except urllib.error.HTTPError as error:
            error.close()
            reason, retry = f"HTTP status {error.code}: {error.reason}", error.code in _BUSY
        except TruncatedFileError:
            raise
        except (OSError, ValueError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            reason = redact(str(cause)) or type(cause).__name__
            retry = isinstance(cause, TimeoutError | ConnectionError)
        if last or not retry:
            raise OSError(reason)
        time.sleep(_PAUSE)
    raise AssertionError


def _download(url: str) -> bytes:
    parts = urlsplit(url)
    user, _, server = parts.netloc.rpartition("@")
    plain = parts._replace(netloc=server, fragment="").geturl()
    request = urllib.request.Request(quote(plain, safe=_PLAIN), headers={"User-Agent": "regraft"})
    if user:
        credentials = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {credentials}")
    chunks, size = [], 0
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        while chunk := response.read(_CHUNK):
            chunks.append(chunk)
            size += len(chunk)
            if size > FILE_LIMIT:
                raise OSError(f"more than the {FILE_LIMIT:,} bytes that are allowed")
        length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) != size:
        raise TruncatedFileError(f"truncated: received {size:,} of {length} bytes")
    return b"".join(chunks)

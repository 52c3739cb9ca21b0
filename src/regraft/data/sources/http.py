"""Fetch single files from a web server, which cannot list its files; errors show no credentials.

A server on the internet cannot make this machine ask servers that only its own network reaches: neither by a redirect,
nor by the URLs in a manifest.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import socket
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPMessage
from typing import IO
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


def fetch(url: str, named_by: str = "") -> bytes:
    """Download a file; only its own server gets credentials. `OSError` if it is missing, too large or truncated.

    `named_by` is the web address of the manifest that names the URL. `OSError` also if that, or a server that
    redirects, is on the internet and the URL is not, and for every link-local address, where clouds keep a machine's
    credentials.
    """
    for last in (False, True):
        try:
            _check_step(named_by, url)
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
    with urllib.request.build_opener(_Redirects).open(request, timeout=_TIMEOUT) as response:
        while chunk := response.read(_CHUNK):
            chunks.append(chunk)
            size += len(chunk)
            if size > FILE_LIMIT:
                raise OSError(f"more than the {FILE_LIMIT:,} bytes that are allowed")
        length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) != size:
        raise TruncatedFileError(f"truncated: received {size:,} of {length} bytes")
    return b"".join(chunks)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects that `_check_step` allows."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        try:
            _check_step(req.full_url, newurl)
        except OSError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_step(before: str, url: str) -> None:
    """Raise `OSError` where a server on the internet leads to a URL that is not, and for link-local addresses."""
    parts = urlsplit(url)
    if parts.scheme.lower() not in ("http", "https"):
        raise OSError(f"the server redirects to {redact(url)}; expected http or https")
    addresses = _addresses(parts.hostname)
    if any(address.is_link_local for address in addresses):
        raise OSError(f"{redact(url)} is a link-local address, where no images are")
    if before and all(address.is_global for address in _addresses(urlsplit(before).hostname)):
        inside = [address for address in addresses if not address.is_global]
        if inside:
            raise OSError(
                f"{redact(before)} is on the internet and leads to {redact(url)}, which is in a private network "
                f"({inside[0]}); download the file yourself if that is meant"
            )


@lru_cache(maxsize=256)
def _addresses(host: str | None) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The addresses of a host; none if its name is not known here, as where only a proxy knows it.

    They are kept, because images come from few hosts, and a name server that only a proxy replaces answers slowly.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM) if host else []
    except (OSError, UnicodeError):
        return []
    addresses = [ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_, address in found]
    return [getattr(address, "ipv4_mapped", None) or address for address in addresses]

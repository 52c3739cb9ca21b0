"""Recognize, redact and split URLs."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://[^\s'\"<>]*")
_USER = re.compile(r"(://)[^/@\s]*@")
_SECRET = re.compile(r"[?&][^=&#]*(?:sig|token|key|credential|secret|passw|auth)[^=&#]*=[^&#]*", re.IGNORECASE)


def is_url(text: object) -> bool:
    """Whether it is a string of the form `protocol://...`."""
    return isinstance(text, str) and _URL.match(text.strip()) is not None


def redact(text: str) -> str:
    """Remove user, password and everything that looks like a key or signature from all URLs in a text."""
    return _URL.sub(lambda match: _redact_url(match[0]), text)


def absolute(path: object) -> str:
    """The absolute path, or the redacted URL."""
    return redact(str(path)) if is_url(str(path)) else str(Path(str(path)).resolve())


def is_web(url: str) -> bool:
    """Whether the protocol is HTTP or HTTPS."""
    return url.lower().startswith(("http://", "https://"))


def leads_to_this_machine(url: str) -> bool:
    """Whether a URL is of a file of this machine, or a chain of protocols (`zip://x::file:///y`), which may be."""
    return "::" in url or url.strip().lower().startswith(("file:", "local:"))


def suffix_of(url: str) -> str:
    """The lower-case file extension in a URL."""
    return PurePosixPath(urlsplit(url).path if is_web(url) else url).suffix.lower()


def parent_of(url: str) -> str:
    """The folder of a URL's file; for a web address without the query."""
    if is_web(url):
        url = urlsplit(url)._replace(query="", fragment="").geturl()
    folder = url.rpartition("/")[0]
    return f"{folder}/" if folder.endswith(":/") else folder


def origin_of(url: str) -> tuple[str, str]:
    """Protocol and server (or bucket) of a URL, without user and password."""
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.netloc.rpartition("@")[2].lower()


def is_within(name: str) -> bool:
    """Whether a relative name stays inside its folder."""
    return not name.startswith("/") and ".." not in name.split("/")


def _redact_url(url: str) -> str:
    url = _SECRET.sub("", _USER.sub(r"\1", url))
    return url.replace("&", "?", 1) if "?" not in url else url

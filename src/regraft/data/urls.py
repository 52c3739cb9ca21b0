"""Texts that are URLs: how they are told, shown and joined.

Enters: a text. Leaves: the same without what might be a credential.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://[^\s'\"<>]*")
_USER = re.compile(r"(://)[^/@\s]*@")
_SECRET = re.compile(r"[?&][^=&#]*(?:sig|token|key|credential|secret|passw|auth)[^=&#]*=[^&#]*", re.IGNORECASE)


def is_url(text: object) -> bool:
    """Whether it is a text of the form `protocol://...`."""
    return isinstance(text, str) and _URL.match(text.strip()) is not None


def shown(text: str) -> str:
    """The text, with every URL in it freed of user, password and what looks like a key or a signature."""
    return _URL.sub(lambda found: _freed(found[0]), text)


def whole(place: object) -> str:
    """A path as an absolute one; a URL as it may be shown."""
    return shown(str(place)) if is_url(str(place)) else str(Path(str(place)).resolve())


def is_web(url: str) -> bool:
    """Whether it is read over HTTP."""
    return url.lower().startswith(("http://", "https://"))


def suffix_of(url: str) -> str:
    """The ending of the file that a URL names, lower case."""
    return PurePosixPath(urlsplit(url).path if is_web(url) else url).suffix.lower()


def parent_of(url: str) -> str:
    """The folder of the file that a URL names; of a web address, without its query."""
    if is_web(url):
        url = urlsplit(url)._replace(query="", fragment="").geturl()
    folder = url.rpartition("/")[0]
    return f"{folder}/" if folder.endswith(":/") else folder


def origin_of(url: str) -> tuple[str, str]:
    """Protocol and server (or bucket) of a URL, without user and password."""
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.netloc.rpartition("@")[2].lower()


def is_within(name: str) -> bool:
    """Whether a name that is relative to a folder leads to something below it."""
    return not name.startswith("/") and ".." not in name.split("/")


def _freed(url: str) -> str:
    url = _SECRET.sub("", _USER.sub(r"\1", url))
    return url.replace("&", "?", 1) if "?" not in url else url

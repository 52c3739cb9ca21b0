"""Files on a web server, one by one: a server tells no list of what it has.

Enters: a URL. Leaves: bytes, and errors that show no credentials.
"""

from __future__ import annotations

import base64
import http.client
import time
import urllib.error
import urllib.request
from urllib.parse import quote, unquote, urlsplit

from regraft.data.decode import ImageSource
from regraft.data.storage import FILE_LIMIT, Directory, Listing
from regraft.data.urls import is_within, shown

#: Seconds without a sign of life after which a server counts as gone.
_PATIENCE = 30.0
#: Answers after which a second request may be answered better, and the seconds until then.
_BUSY, _PAUSE = (429, 500, 502, 503, 504), 1.0
_PIECE = 2**20
#: What a URL may hold as it is; whatever else is in a manifest's paths, such as blanks, is encoded.
_PLAIN = "%/:?#[]@!$&'()*+,;=~"


class WebFolder:
    """What lies below an address; nothing is known of it until it is read.

    Args:
        url: Of the folder, `http` or `https`, without a slash at its end.
    """

    def __init__(self, url: str) -> None:
        """Nothing is read yet."""
        self.url = url

    @property
    def top(self) -> Directory:
        """Empty: a web server tells no list."""
        return Listing()

    def exists(self, name: str) -> bool:
        """Whether it could be: without blanks around it."""
        return name == name.strip()

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        if not is_within(name):
            raise ValueError(f"{name} leads out of {shown(self.url)}")
        return fetch(f"{self.url}/{quote(name)}")

    def source(self, name: str) -> ImageSource:
        """Its bytes."""
        return self.read(name)

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """None: a server need not tell when a file changes."""
        return None


def fetch(url: str) -> bytes:
    """All bytes at an `http` or `https` address; user and password in it are sent to its own server alone.

    Raises:
        OSError: There is no such file, the server is not there, or the file is larger than is allowed.
    """
    for last in (False, True):
        try:
            return _fetched(url)
        except urllib.error.HTTPError as error:
            error.close()
            why, again = f"HTTP status {error.code}: {error.reason}", error.code in _BUSY
        except (OSError, ValueError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            why, again = shown(str(cause)) or type(cause).__name__, isinstance(cause, TimeoutError | ConnectionError)
        if last or not again:
            raise OSError(why)
        time.sleep(_PAUSE)
    raise AssertionError


def _fetched(url: str) -> bytes:
    parts = urlsplit(url)
    user, _, server = parts.netloc.rpartition("@")
    plain = parts._replace(netloc=server, fragment="").geturl()
    request = urllib.request.Request(quote(plain, safe=_PLAIN), headers={"User-Agent": "regraft"})
    if user:
        pair = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {pair}")
    pieces, size = [], 0
    with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
        while piece := answer.read(_PIECE):
            pieces.append(piece)
            size += len(piece)
            if size > FILE_LIMIT:
                raise OSError(f"more than the {FILE_LIMIT:,} bytes that are allowed")
        length = answer.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) != size:
        raise OSError(f"cut off: {size:,} of {length} bytes came")
    return b"".join(pieces)

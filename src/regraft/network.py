"""Whether a server can be reached, found out soon: clients of hubs and registries wait and retry for minutes."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

#: Seconds in which a server, or the proxy to it, must accept a connection.
CONNECT_SECONDS = 10.0


def check_reachable(url: str) -> None:
    """Raise `OSError` if the server of a URL, or the proxy to it, accepts no connection within `CONNECT_SECONDS`."""
    host = urlsplit(url)
    proxy = None if proxy_bypass(host.netloc) else getproxies().get(host.scheme)
    if proxy:
        host = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if host.hostname:
        port = host.port or {"http": 80, "https": 443}.get(host.scheme, 1080)
        socket.create_connection((host.hostname, port), CONNECT_SECONDS).close()

"""The socket at which the server listens."""

from __future__ import annotations

import socket
import sys

import pytest

from regraft.serving.listener import accept_waiting, bind, ignore_new_clients


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux's; elsewhere new clients are accepted")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_new_clients_are_ignored_and_those_that_have_connected_are_accepted(host: str) -> None:
    with bind(host, 0) as listener:
        listener.setblocking(False)
        address = listener.getsockname()[:2]
        with socket.create_connection(address, timeout=5) as before:
            ignore_new_clients(listener)
            with pytest.raises(TimeoutError):
                socket.create_connection(address, timeout=0.3)
            before.sendall(b"question")
            (accepted,) = accept_waiting(listener)
            with accepted:
                accepted.setblocking(True)
                assert accepted.recv(8) == b"question"
                listener.close()
                accepted.sendall(b"answer")
                assert before.recv(8) == b"answer"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=5)

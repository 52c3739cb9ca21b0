"""Wrong addresses, clusters that are not there, and Ray that is not installed."""

from __future__ import annotations

import socket
import sys

import pytest

import regraft
from regraft.cluster import connection
from regraft.cluster.connection import connect
from regraft.errors import ClusterError, MissingExtraError, UsageError


@pytest.mark.parametrize("address", ["", "host", "ray://host", "http://host:1", "ray://host:10001/x"])
def test_wrong_addresses_are_refused(address: str) -> None:
    with pytest.raises(UsageError, match="expected ray://HOST:10001, HOST:6379, auto or local"), connect(address):
        pass


def test_a_cluster_that_is_not_there_is_one_clear_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        pytest.raises(ClusterError, match=rf"ray://127.0.0.1:{port} cannot be used"),
        connect(f"ray://127.0.0.1:{port}"),
    ):
        pass


def test_a_server_that_does_not_answer_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_HEALTH_SECONDS", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterError, match="did not answer in"), connect(address):
            pass


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, squares_folder) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'regraft\[ray\]'"):
        regraft.cross_validate(squares_folder, 3, cluster="local")

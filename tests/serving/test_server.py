"""Startup and shutdown of the server process."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from served import in_process
from terminal import regraft


def test_accepted_requests_are_answered_and_new_ones_refused(run: Path, squares_folder: Path) -> None:
    content = (squares_folder / "green" / "01.png").read_bytes()
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    head += f"Content-Length: {len(content)}\r\n\r\n"
    with (
        in_process(run, "--drain-delay", 0.5, "--ood-rate", 0.3, "--batch", 2) as server,
        ThreadPoolExecutor(8) as pool,
    ):
        assert server.client.get("/v2/health/ready").status_code == 200
        with socket.create_connection(server.host_and_port, timeout=20) as slow:
            slow.sendall(head.encode() + content[:10])
            while "\nregraft_buffered_bytes 10.0\n" not in server.client.get("/metrics").text:
                time.sleep(0.02)  # now the request is accepted, and a part of its body has arrived
            ending = pool.submit(server.end)
            until = time.monotonic() + 5
            while (answer := server.client.get("/v2/health/ready")).status_code == 200 and time.monotonic() < until:
                time.sleep(0.02)
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "2"
            assert answer.headers["connection"] == "close"
            assert "shutting down" in answer.json()["error"]
            refused = server.client.post("/predict", content=content, headers={"Content-Type": "image/png"})
            assert refused.status_code == 503
            assert server.client.get("/v2/health/live").status_code == 200
            time.sleep(0.8)  # now the port is closed
            with pytest.raises(httpx.ConnectError):
                httpx.get(server.address)
            assert not ending.done()
            slow.sendall(content[10:])
            received = b""
            while piece := slow.recv(65536):
                received += piece
        assert received.startswith(b"HTTP/1.1 200")
        assert b'"label"' in received
        assert ending.result(30) == 0
    assert json.loads(server.log[-1])["event"] == "ended"


def test_clients_that_connect_again_and_again_do_not_keep_the_server(run: Path) -> None:
    def ask_until_refused(address: tuple[str, int]) -> None:
        with suppress(OSError):
            while True:
                with socket.create_connection(address, timeout=60) as connection:
                    connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    while connection.recv(65536):
                        pass

    with in_process(run, "--drain-delay", 0) as server, ThreadPoolExecutor(16) as pool:
        if hasattr(os, "sched_setaffinity"):  # clients are faster than the server
            os.sched_setaffinity(server.process.pid, {min(os.sched_getaffinity(0))})
            os.setpriority(os.PRIO_PROCESS, server.process.pid, 19)
        clients = [pool.submit(ask_until_refused, server.host_and_port) for _ in range(16)]
        time.sleep(1)
        assert server.end(seconds=240) == 0  # beside other programs, too
        for client in clients:
            client.result(60)


def test_invalid_arguments_are_reported_at_once(run: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    (damaged / "model.safetensors").write_bytes(b"nothing")
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    with taken:
        for arguments, code, said in (
            ((tmp_path / "none",), 2, "is not a folder"),
            ((tmp_path,), 1, "is not a run"),
            ((run, run), 2, "Two models have the name squares"),
            ((run, "--port", port), 2, "Choose another --port"),
            ((run, "--host", "203.0.113.7"), 2, "Cannot listen"),
            ((run, "--engine", "slow"), 2, "same or fastest"),
            ((run, "--max-images", 9, "--queue", 3), 2, "queue of at least"),
            ((run, "--token-file", tmp_path / "token"), 1, "token"),
            ((run, "--ood-rate", 0.0001, "--port", 0), 2, "validation images"),
            ((damaged, "--port", 0), 1, "copy the run again"),
        ):
            done = regraft("serve", *arguments)
            assert (done.returncode, said in done.stderr) == (code, True), done.stderr

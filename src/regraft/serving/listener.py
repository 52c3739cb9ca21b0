"""The socket at which the server listens: bound before anything is loaded, closed without a reset for a client."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import sys

from regraft.errors import UsageError

#: Linux's number of the option that gives a socket a filter, which Python has no name for.
_SO_ATTACH_FILTER = 26
#: A classic BPF program on TCP segments, as (code, jump if true, jump if false, value): load the byte of the flags, and
#: keep SYN and ACK of it; the first segment of a connection, which has SYN alone, is dropped, all others go through.
_DROP_FIRST_SEGMENTS = (
    (0x30, 0, 0, 13),
    (0x54, 0, 0, 0x12),
    (0x15, 0, 1, 0x02),
    (0x06, 0, 0, 0),
    (0x06, 0, 0, 0xFFFFFFFF),
)


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket before anything is loaded (port 0: any free port); raises `UsageError` if that fails."""
    try:
        addresses = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = addresses[0]
        bound = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":  # elsewhere, this option would share the port with another program
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen()
        except BaseException:
            bound.close()
            raise
    except OSError as error:
        raise UsageError(
            f"Cannot listen at {host}, port {port}: {error.strerror or error}. Choose another --port; 0: any free port."
        ) from error
    return bound


def ignore_new_clients(listener: socket.socket) -> None:
    """Let connections that have begun become ready, and leave new ones without an answer: they are tried again.

    A client tries again after a second, and finds the port closed. Without this, one that connects between the last
    `accept` and the close is reset. Does nothing where the system has no such filter (it is Linux's).
    """
    if sys.platform != "linux":
        return
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in _DROP_FIRST_SEGMENTS))
    described = struct.pack("HP", len(_DROP_FIRST_SEGMENTS), ctypes.addressof(program))
    with contextlib.suppress(OSError):  # a system that emulates Linux may lack it
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


def accept_waiting(listener: socket.socket) -> list[socket.socket]:
    """Accept all who have connected, without a pause in which a client could get its answer and connect again."""
    accepted = list[socket.socket]()
    listener.listen(0)  # where new clients cannot be ignored, at most one more can wait
    while True:
        try:
            accepted.append(listener.accept()[0])
        except ConnectionAbortedError:
            continue
        except OSError:  # nobody waits any more, or no more files can be open
            return accepted
        accepted[-1].setblocking(False)

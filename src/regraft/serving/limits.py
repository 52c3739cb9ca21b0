"""What a client may ask for, and for how long: one value that all parts of the server look at."""

from __future__ import annotations

from dataclasses import dataclass, fields

from regraft.data.decode import MAX_PIXELS
from regraft.errors import UsageError

#: Classes that one answer may name.
MOST_CLASSES = 1000


@dataclass(frozen=True)
class Limits:
    """Bounds of a request and of the server.

    Attributes:
        body_bytes: Of one request.
        buffered_bytes: Of all requests that are being received or wait for an answer.
        images: Of one request.
        pixels: Width times height of one image; that of `regraft predict`, so that both read the same files.
        header_bytes: Of the request line and the headers.
        header_seconds: From the first byte of a request, or from the connection, to the end of its headers.
        body_seconds: From there to the end of the body.
        write_seconds: Without any byte of an answer being taken by the client.
        decode_seconds: For one image, after which the process that decodes it is killed.
        deadline_seconds: From the end of the body to the answer.
        idle_seconds: That a connection is kept without a request.
        connections: At the same time.
        queue: Images that wait or are being worked on.
        batch: Images of one pass of the network.
        delay_seconds: That the first image of a batch waits for others.
        drain_delay_seconds: From the signal to end to the closing of the port; new requests get 503 meanwhile.
        drain_seconds: From there on, for answers to accepted requests.
    """

    body_bytes: int = 32 * 2**20
    buffered_bytes: int = 256 * 2**20
    images: int = 32
    pixels: int = MAX_PIXELS
    header_bytes: int = 32 * 2**10
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    write_seconds: float = 30.0
    decode_seconds: float = 10.0
    deadline_seconds: float = 30.0
    idle_seconds: float = 15.0
    connections: int = 512
    queue: int = 256
    batch: int = 16
    delay_seconds: float = 0.002
    drain_delay_seconds: float = 0.5
    drain_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Refuse what no request could keep to.

        Raises:
            UsageError: A limit is not above 0 (delays: below 0), or one contradicts another.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if "delay" in field.name else 1e-9
            if not value >= least:
                raise UsageError(f"{field.name} = {value}; expected a number above 0{'' if least else ', or 0'}.")
        if self.images > self.queue:
            raise UsageError(
                f"images = {self.images} of one request, queue = {self.queue}: such a request would never find room. "
                "Expected a queue of at least as many."
            )
        if self.body_bytes > self.buffered_bytes:
            raise UsageError(
                f"body_bytes = {self.body_bytes} of one request, buffered_bytes = {self.buffered_bytes} of all: "
                "expected the latter to be larger."
            )

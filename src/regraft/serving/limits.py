"""Limits of requests and of the server."""

from __future__ import annotations

from dataclasses import dataclass, fields

from regraft.data.decode import MAX_PIXELS
from regraft.errors import UsageError

#: Largest number of classes that an answer lists.
MAX_CLASSES = 1000


@dataclass(frozen=True)
class Limits:
    """Limits of requests and of the server. Sizes are in bytes, times in seconds."""

    body_bytes: int = 32 * 2**20  #: size of a request body
    buffered_bytes: int = 256 * 2**20  #: size of all bodies that are being received or wait for an answer
    images: int = 32  #: images in a request
    pixels: int = MAX_PIXELS  #: width times height of an image; by default as for `regraft predict`
    header_bytes: int = 32 * 2**10  #: size of the request line and the headers
    header_seconds: float = 10.0  #: from the first byte of a request, or from the connection, to the end of its headers
    body_seconds: float = 30.0  #: from the end of the headers to the end of the body
    write_seconds: float = 30.0  #: time in which the client takes no byte of its answer
    decode_seconds: float = 10.0  #: decoding of an image, after which the decoding process is killed
    deadline_seconds: float = 30.0  #: from the end of the body to the answer
    idle_seconds: float = 15.0  #: time that a connection is kept without a request
    connections: int = 512  #: connections at the same time
    queue: int = 256  #: images that wait or are being predicted
    batch: int = 16  #: images in a batch
    delay_seconds: float = 0.002  #: time that the first image of a batch waits for others
    drain_delay_seconds: float = 0.5  #: from the signal to the closing of the port; new requests get 503 meanwhile
    drain_seconds: float = 60.0  #: from then on, time for the answers to accepted requests
    log_bytes: int = 200 * 10**6  #: size of the log of answers, whose oldest files are deleted
    samples: int = 200  #: pictures that are kept in the sample folder
    sample_bytes: int = 100 * 10**6  #: size of all of them

    def __post_init__(self) -> None:
        """Raise `UsageError` if a limit is not positive (a delay: negative), or contradicts another."""
        for field in fields(self):
            value, is_delay = getattr(self, field.name), "delay" in field.name
            if not (value >= 0 if is_delay else value > 0):
                raise UsageError(f"{field.name} = {value}; expected a number above 0{', or 0' if is_delay else ''}.")
        if self.images > self.queue:
            text = f"A request may have {self.images} images, but the queue holds {self.queue}."
            raise UsageError(f"{text} Expected a queue of at least as many.")
        if self.body_bytes > self.buffered_bytes:
            text = f"body_bytes = {self.body_bytes} exceeds buffered_bytes = {self.buffered_bytes}"
            raise UsageError(f"{text}; expected at most that.")

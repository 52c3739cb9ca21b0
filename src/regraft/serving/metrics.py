"""What a Prometheus server reads at `/metrics`.

Enters: what happens. Leaves: text. Labels hold names of this program and of the models that it was started with, never
anything that a client sent.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"))
_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The server's counters, in a registry of their own."""

    def __init__(self) -> None:
        """All at 0."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # theirs; a line more for each, which nobody reads
        self.registry = own = CollectorRegistry()
        ProcessCollector(registry=own)
        self.requests = Counter(
            "regraft_requests", "Requests by address, method and status.", ("route", "method", "status"), registry=own
        )
        self.seconds = Histogram(
            "regraft_request_seconds", "From headers to answer.", ("route",), buckets=_SECONDS, registry=own
        )
        self.problems = Counter("regraft_problems", "Requests that got an error, by cause.", ("cause",), registry=own)
        self.rejections = Counter(
            "regraft_rejections", "Requests that found no room or came at a bad time.", ("cause",), registry=own
        )
        self.images = Counter("regraft_images", "Images by what came of them.", ("model", "outcome"), registry=own)
        self.batch = Histogram("regraft_batch_images", "Images of one batch.", ("model",), buckets=_SIZES, registry=own)
        self.inference = Histogram(
            "regraft_batch_seconds", "One batch in the engine.", ("model",), buckets=_SECONDS, registry=own
        )
        self.decoding = Histogram(
            "regraft_decode_seconds", "One image, the wait for a process included.", buckets=_SECONDS, registry=own
        )
        self.queue = Gauge("regraft_queue_images", "Images that wait or are being worked on.", registry=own)
        self.buffered = Gauge("regraft_buffered_bytes", "Bodies that are held.", registry=own)
        self.connections = Gauge("regraft_connections", "Open connections.", registry=own)
        self.killed = Gauge("regraft_decoders_killed", "Decoding processes killed or crashed so far.", registry=own)
        self.ready = Gauge("regraft_ready", "1 while requests are accepted.", registry=own)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self.registry)


def method_label(method: str) -> str:
    """The method, or `other`: a client may send any word."""
    return method if method in _METHODS else "other"

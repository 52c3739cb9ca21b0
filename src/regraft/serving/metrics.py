"""Metrics for Prometheus. Labels are names of this program and its models, never something that a client sent."""

from __future__ import annotations

from functools import partial

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from regraft.serving.answer_metrics import AnswerMetrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        # "Created" metrics add a line for each metric, which nobody reads.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = own = CollectorRegistry()
        ProcessCollector(registry=own)
        counter, gauge = partial(Counter, registry=own), partial(Gauge, registry=own)
        seconds = partial(Histogram, buckets=_SECONDS, registry=own)
        labels, cause = ("route", "method", "status"), ("cause",)
        self.requests = counter("regraft_requests", "Requests by address, method and status.", labels)
        self.seconds = seconds("regraft_request_seconds", "Time from headers to answer.", ("route",))
        self.problems = counter("regraft_problems", "Errors by cause.", cause)
        self.rejections = counter("regraft_rejections", "Requests without capacity or time for them, by cause.", cause)
        self.images = counter("regraft_images", "Images by outcome.", ("model", "outcome"))
        self.batch = Histogram("regraft_batch_images", "Images in a batch.", ("model",), buckets=_SIZES, registry=own)
        self.inference = seconds("regraft_batch_seconds", "Time of a batch in the engine.", ("model",))
        self.decoding = seconds("regraft_decode_seconds", "Time to decode an image, with waiting.")
        self.queue = gauge("regraft_queue_images", "Images that wait or are being predicted.")
        self.buffered = gauge("regraft_buffered_bytes", "Size of the request bodies in memory.")
        self.connections = gauge("regraft_connections", "Open connections.")
        self.killed = gauge("regraft_decoders_killed", "Decoding processes killed or crashed so far.")
        self.ready = gauge("regraft_ready", "1 while requests are accepted.")
        self.answers = AnswerMetrics(own)

    def text(self) -> bytes:
        """The metrics in Prometheus' format."""
        return prometheus_client.generate_latest(self.registry)

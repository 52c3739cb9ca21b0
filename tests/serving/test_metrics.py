"""Metrics are Prometheus' text, in a registry of their own."""

from __future__ import annotations

from predictors import metric_values as values

from regraft.serving.metrics import Metrics


def test_metrics_are_counted_by_their_labels() -> None:
    metrics = Metrics()
    metrics.requests.labels("/predict", "POST", "200").inc()
    metrics.problems.labels("bad-image").inc(2)
    metrics.batch.labels("squares").observe(3)
    metrics.queue.set(5)
    found = values(metrics)
    assert found["regraft_requests_total", "POST", "/predict", "200"] == 1
    assert found["regraft_problems_total", "bad-image"] == 2
    assert found["regraft_batch_images_bucket", "2.0", "squares"] == 0
    assert found["regraft_batch_images_bucket", "4.0", "squares"] == 1
    assert found["regraft_queue_images",] == 5
    assert not any(name.endswith("_created") for name, *_ in found)


def test_two_servers_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.images.labels("squares", "predicted").inc()
    assert ("regraft_images_total", "squares", "predicted") in values(first)
    assert ("regraft_images_total", "squares", "predicted") not in values(second)

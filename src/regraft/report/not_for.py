"""What a model must not be used for, as its card and its bill of materials say it.

Input: the record of a run. Output: phrases that go on after "Not for".
"""

from __future__ import annotations

from collections.abc import Iterator

from regraft.report.record import RunRecord


def not_for(record: RunRecord) -> Iterator[str]:
    """Yield what the model must not be used for, the most important first."""
    if record.part is None:
        yield "Any decision: how often the model is right was not measured on held-out images."
    elif record.at_chance:
        yield f"Any decision. {record.at_chance}"
    yield "Decisions about a person's health, safety, rights or opportunities that no person checks."
    yield (
        "Images of another kind than the training images, such as from other cameras, places or times, before the "
        "model was evaluated on such images."
    )
    if record.task == "regression":
        yield "Images whose true number may be outside of those of the training images."
    elif record.task == "classification":
        rejected = ", unless out-of-distribution images are rejected" if record.description.get("ood") else ""
        yield f"Images that may show none of its classes{rejected}: it answers with one of them."
    for conditions in record.license_conditions:
        yield f"Commercial use before the license of its pretrained weights was read. {conditions}"

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import regraft
from regraft.errors import UsageError
from regraft.studies.attribution_audit import AttributionAudit, ImageAttribution


def test_images_with_most_of_their_evidence_at_the_border_are_named(tmp_path: Path) -> None:
    images = (
        ImageAttribution("a.png", "cat", "cat", 0.9, 0.2, 0.5, "dog", "cat"),
        ImageAttribution("b.png", "cat", "dog", 0.8, 0.8, 0.1, "dog", "dog"),
        ImageAttribution("c.png", "dog", "dog", 0.7, 0.9, 0.0, "cat", "dog"),
        ImageAttribution("d.png", "dog", "dog", 0.6, np.nan, np.nan, "dog", "dog"),
    )
    maps, pictures = np.ones((2, 32, 32), np.float32), np.zeros((2, 32, 32, 3), np.uint8)
    examples = {path: np.zeros((32, 32, 3), np.uint8) for path in ("b.png", "c.png")}
    audit = AttributionAudit(("cat", "dog"), images, maps, pictures, examples, "gradcam", "last")
    assert audit.to_json()["withheld"].startswith("The model is not clearly better")  # with four images none is
    assert audit.to_json()["at_border"] == []
    audit = AttributionAudit(("cat", "dog"), images, maps, pictures, examples, "gradcam", "last")
    audit.__dict__["at_chance"] = ""  # as if more images had shown it to be better
    value = audit.to_json()
    assert value["at_border"] == ["c.png", "b.png"]
    assert value["all"] == {"images": 4, "border": pytest.approx(1.9 / 3), "center": pytest.approx(0.2)}
    assert value["classes"]["cat"]["images"] == 1
    accuracy = {name: row["value"] for name, row in value["accuracy"].items()}
    assert accuracy == {"plain": 0.75, "evidence_hidden": 0.25, "as_much_elsewhere_hidden": 0.75}
    files = audit.write(tmp_path / "out")
    assert [file.name for file in files] == [
        "evidence.json", "evidence.csv", "evidence_by_class.png", "evidence_at_border.png"
    ]  # fmt: skip
    assert all(file.is_file() for file in files)


def test_a_model_without_data_is_refused() -> None:
    model = regraft.build(classes=["a", "b"], weights="none", image_size=32)
    with pytest.raises(UsageError, match="needs labeled data"):
        regraft.audit_attribution(model)

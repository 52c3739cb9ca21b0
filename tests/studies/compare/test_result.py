from __future__ import annotations

from regraft.evaluation.comparison import difference_of
from regraft.studies.compare.result import ComparedModel, ModelPair, conclude


def model(name: str, accuracy: float, **values: object) -> ComparedModel:
    fields = dict.fromkeys(ComparedModel.__dataclass_fields__, 1.0) | {
        "name": name, "run": name, "weights": "wheel", "test_accuracy": accuracy,
        "test_accuracy_interval": (accuracy - 0.05, accuracy + 0.05), "test_images": 200, "parameters": 10**6,
    }  # fmt: skip
    return ComparedModel(**fields | values)  # type: ignore[arg-type]


def test_the_conclusion_claims_significant_differences_only() -> None:
    models = [model("a", 0.9, train_seconds=90.0), model("b", 0.89, train_seconds=9.0), model("c", 0.6)]
    pairs = [
        ModelPair("a", "b", difference_of(12, 10, 200), 0.8),
        ModelPair("a", "c", difference_of(70, 10, 200), 1e-6),
        ModelPair("b", "c", difference_of(70, 12, 200), 1e-6),
    ]
    text = " ".join(conclude(models, pairs))
    assert "a has the highest test accuracy: 90.0 %" in text
    assert "on 200 images" in text
    assert "It is significantly better than c." in text
    assert "Its difference from b is not significant." in text
    assert "b trained fastest (9 s)" in text
    assert "c" not in text.split("Among these")[1].split(".")[0].split()
    assert "smallest" not in text  # all have as many parameters
    assert not any("significantly better" in sentence for sentence in conclude(models[:2], pairs[:1]))
    smaller = [models[0], model("b", 0.89, parameters=5 * 10**5)]
    assert any("and b is the smallest (0.5 M parameters)." in sentence for sentence in conclude(smaller, pairs[:1]))


def test_a_verdict_names_what_was_left_out() -> None:
    sentences = conclude([model("cnn", 0.6), model("ann", 0.5)], [], ["efficientnet_lite0"])
    assert sentences[0] == "Not compared, because it could not be trained: efficientnet_lite0."
    assert sentences[1].startswith("Of the 2 other models, cnn has the highest test accuracy: 60.0 %")
    (left_out, alone, *_) = conclude([model("cnn", 0.6)], [], ["a", "b"])
    assert "a, b" in left_out
    assert alone.startswith("Nothing is compared: cnn is the only model.")
    assert not any("highest" in sentence for sentence in conclude([model("cnn", 0.6)], [], ["a"]))


def test_a_tie_is_said() -> None:
    text = " ".join(conclude([model("a", 0.9, test_loss=0.1), model("b", 0.9, test_loss=0.2)], []))
    assert "b has the same test accuracy, but not a lower test loss." in text

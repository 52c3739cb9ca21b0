"""Keras and regraft give the same features from the same random weights, whatever file they come from."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from regraft.errors import WeightsError
from regraft.exporting.formats.tensorflow import import_tensorflow
from regraft.models.classifier import Classifier, build
from regraft.models.serialization import load_classifier, save_classifier

#: TensorFlow's, where Keras reads a variable.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SIZE = 64
NETWORKS = {"vgg16": "VGG16", "resnet50": "ResNet50", "mobilenetv2": "MobileNetV2", "efficientnetb0": "EfficientNetB0"}
MODULES = {"vgg16": "vgg16", "resnet50": "resnet", "mobilenetv2": "mobilenet_v2", "efficientnetb0": "efficientnet"}


@pytest.fixture(scope="module")
def keras() -> Any:
    import_tensorflow()
    import keras

    return keras


@pytest.fixture(scope="module")
def network(keras: Any) -> Callable[[str], Any]:
    """Makes a network of `keras.applications` whose weights and statistics are all random; each once."""
    made: dict[str, Any] = {}

    def make(name: str) -> Any:
        if name not in made:
            make_network = getattr(keras.applications, NETWORKS[name])
            made[name] = make_network(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
            rng = np.random.default_rng(0)
            for layer in made[name].layers:
                shapes = [value.shape for value in layer.get_weights()]
                if layer.__class__.__name__ == "BatchNormalization":
                    layer.set_weights([rng.uniform(0.5, 1.5, shape) for shape in shapes])
                elif layer.__class__.__name__ != "Normalization" and shapes:
                    kernel, *bias = shapes
                    scale = (2 / np.prod(kernel[:-1] if kernel[-1] > 1 else kernel[:2])) ** 0.5
                    layer.set_weights([rng.normal(0, scale, kernel), *(rng.normal(0, 0.1, shape) for shape in bias)])
        return made[name]

    return make


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.float32)


def _features(model: Classifier, pixels: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model.activations(torch.from_numpy(pixels).permute(0, 3, 1, 2), len(model.stages)).values.numpy()


def _keras_features(keras: Any, network: Any, inputs: np.ndarray) -> np.ndarray:
    return np.asarray(network(inputs, training=False)).mean(axis=(1, 2))


def _build(name: str, file: Path) -> Classifier:
    return build(name, classes=["a", "b"], weights=str(file), image_size=SIZE, head_stages="last")


def _assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    assert expected.std() > 0.01 * np.abs(expected).mean()  # it says something
    assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "ending"),
    [*((name, ending) for name in NETWORKS for ending in (".h5", ".weights.h5")), ("mobilenetv2", ".keras")],
)
def test_features_are_those_of_keras(
    name: str, ending: str, keras: Any, network: Callable[[str], Any], pixels: np.ndarray, tmp_path: Path
) -> None:
    theirs, file = network(name), tmp_path / f"network{ending}"
    theirs.save_weights(file) if ending == ".weights.h5" else theirs.save(file)
    model = _build(name, file)
    assert model.spec.name == f"keras_{name}"
    assert model.weights.source == "file"
    assert "left out" not in model.weights.note
    preprocess = getattr(keras.applications, MODULES[name]).preprocess_input
    expected = _keras_features(keras, theirs, preprocess(pixels.copy()))
    _assert_close(_features(model, pixels), expected)
    if ending == ".h5":  # a run keeps it
        save_classifier(model, tmp_path / "run")
        _assert_close(_features(load_classifier(tmp_path / "run"), pixels), expected)


@pytest.mark.parametrize("ending", [".h5", ".weights.h5", ".keras"])
@pytest.mark.parametrize("nested", [True, False], ids=["inside", "flat"])
def test_the_backbone_of_a_fine_tuned_model_is_read(
    ending: str, nested: bool, keras: Any, network: Callable[[str], Any], pixels: np.ndarray, tmp_path: Path
) -> None:
    """Rescaling and head are a user's own; what Rescaling does is kept, and the head is named and left out."""
    base, layers = network("mobilenetv2"), keras.layers
    if nested:
        head = [layers.GlobalAveragePooling2D(), layers.Dense(8), layers.Dense(2, activation="softmax")]
        theirs = keras.Sequential([keras.Input((SIZE, SIZE, 3)), layers.Rescaling(1 / 255), base, *head])
    else:
        features = layers.GlobalAveragePooling2D()(base.output)
        outputs = layers.Dense(2, activation="softmax")(layers.BatchNormalization()(layers.Dense(8)(features)))
        theirs = keras.Model(base.input, outputs)
    theirs.compile("adam", "sparse_categorical_crossentropy")  # its state is in the file, too
    file = tmp_path / f"best_model{ending}"
    theirs.save_weights(file) if ending == ".weights.h5" else theirs.save(file)
    model = _build("mobilenetv2", file)
    assert "Layers that are not part of it are left out: " in model.weights.note
    assert model.weights.note.count("dense") == 2
    rescaled = nested and ending != ".weights.h5"
    assert ("from 0 to 1" in model.weights.note) == rescaled
    inputs = pixels / 255 if rescaled else pixels / 127.5 - 1
    _assert_close(_features(model, pixels), _keras_features(keras, base, inputs))


def test_a_rescaling_to_one_keeps_red_green_blue(
    keras: Any, network: Callable[[str], Any], pixels: np.ndarray, tmp_path: Path
) -> None:
    base = network("vgg16")
    theirs = keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Rescaling(1 / 255), base])
    theirs.save(tmp_path / "m.keras")
    model = _build("vgg16", tmp_path / "m.keras")
    assert "minus (0, 0, 0), divided by (1, 1, 1)" in model.weights.note
    _assert_close(_features(model, pixels), _keras_features(keras, base, pixels / 255))


@pytest.mark.parametrize("quirk", [True, False], ids=["imagenet", "adapted"])
def test_normalization_of_efficientnet_is_read(
    quirk: bool, keras: Any, network: Callable[[str], Any], pixels: np.ndarray, tmp_path: Path
) -> None:
    """With the weights for ImageNet a second Rescaling divides by the roots again, and the file does not say so."""
    base = network("efficientnetb0")
    layer = next(layer for layer in base.layers if layer.name.startswith("normalization"))
    before = layer.get_weights()
    std = np.array([0.229, 0.224, 0.225])
    mean, variance = np.array([0.485, 0.456, 0.406]), std if quirk else std**2 * 2
    layer.set_weights([mean, variance, np.array(0)])
    base.save_weights(tmp_path / "m.weights.h5")
    layer.set_weights(before)
    model = _build("efficientnetb0", tmp_path / "m.weights.h5")
    scaled = 255 * (pixels / 255 - mean) / (std if quirk else np.sqrt(variance))  # `base` itself divides by 255 only
    _assert_close(_features(model, pixels), _keras_features(keras, base, scaled.astype(np.float32)))


def test_another_network_is_named(keras: Any, network: Callable[[str], Any], tmp_path: Path) -> None:
    network("mobilenetv2").save_weights(file := tmp_path / "m.weights.h5")
    for name in ("resnet50", "convnext_tiny"):
        with pytest.raises(WeightsError, match="It contains keras_mobilenetv2: pass --backbone mobilenetv2"):
            _build(name, file)


def test_an_unknown_network_lists_its_layers(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    theirs = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2)])
    for file in (tmp_path / "m.keras", tmp_path / "m.h5"):
        theirs.save(file)
        with pytest.raises(
            WeightsError, match=r"does not contain VGG16 .* block1_conv1, .*conv2d.* \(3, 3, 3, 4\), dense"
        ):
            _build("vgg16", file)


@pytest.mark.parametrize("ending", [".h5", ".keras"])
def test_damaged_files_are_refused(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"m{ending}").write_bytes(b"rubbish")
    with pytest.raises(WeightsError, match="cannot be read as a file of Keras"):
        _build("vgg16", tmp_path / f"m{ending}")


def test_an_archive_that_expands_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(65 * 2**20))
    with pytest.raises(WeightsError, match="unpacks to 68,157,442 bytes, which no weights do"):
        _build("vgg16", tmp_path / "m.keras")


def test_links_to_other_files_are_not_followed(network: Callable[[str], Any], tmp_path: Path) -> None:
    network("vgg16").save(tmp_path / "secret.h5")
    shutil.copy(tmp_path / "secret.h5", tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "a") as root:
        del root["model_weights/block1_conv1"]
        root["model_weights/block1_conv1"] = h5py.ExternalLink("secret.h5", "model_weights/block1_conv1")
    with pytest.raises(WeightsError, match="does not contain VGG16"):
        _build("vgg16", tmp_path / "m.h5")


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.util import find_spec

    from regraft.errors import MissingExtraError

    (tmp_path / "m.h5").write_bytes(b"")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "h5py" else find_spec(name))
    with pytest.raises(MissingExtraError, match=r"m\.h5.*regraft\[tensorflow\]"):
        _build("vgg16", tmp_path / "m.h5")

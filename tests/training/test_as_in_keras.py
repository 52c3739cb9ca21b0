"""Both phases of a notebook, in Keras and here, from the same random weights, on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regraft.data.augmentation_options import Augmentation
from regraft.data.dataset import Dataset, Split
from regraft.exporting.formats.tensorflow import import_tensorflow
from regraft.models.classifier import Classifier, build
from regraft.training.trainer import train

#: TensorFlow's, where Keras reads a variable.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SIZE, EPOCHS = 32, 3
HEAD_LR, FINETUNE_LR = 1e-2, 0.1
#: As Keras trains: constant rate, every epoch on all images at once, so that their order does not matter.
AS_KERAS: dict[str, Any] = {
    "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0, "label_smoothing": 0.0, "ema_epochs": 0.0,
    "batch_size": 1000, "keep_finetuned": "always", "monitor": "val_loss", "precision": "off",
    "prefix_backend": "torch", "head_optimizer": "adam", "head_epochs": EPOCHS, "head_lr": HEAD_LR, "optimizer": "sgd",
    "finetune_from": "block5_conv1", "finetune_epochs": EPOCHS, "finetune_lr": FINETUNE_LR,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """VGG16 of Keras with random weights, and their file."""
    import_tensorflow()
    import keras

    keras.utils.set_random_seed(0)
    made = keras.applications.VGG16(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
    made.save_weights(file := tmp_path_factory.mktemp("keras") / "vgg16.weights.h5")
    return made, file


def _arrays(model: Classifier, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.stack([model.preprocessing(data.source(sample)) for sample in data.samples])
    return pixels.astype(np.float32), data.labels


def test_losses_are_those_of_keras(base: tuple[Any, Path], squares_split: Split) -> None:
    import keras

    network, file = base
    model = build("vgg16", classes=squares_split.classes, weights=str(file), image_size=SIZE, head_stages="last")
    head = model.head.classifier
    train_images, val_images = (_arrays(model, squares_split[part]) for part in ("train", "val"))

    preprocess = keras.applications.vgg16.preprocess_input
    (x, y), validation = (preprocess(train_images[0].copy()), train_images[1]), list(val_images)
    validation[0] = preprocess(validation[0].copy())
    inputs = keras.Input((SIZE, SIZE, 3))
    network.trainable = False
    dense = keras.layers.Dense(len(squares_split.classes), activation="softmax")
    outputs = dense(keras.layers.GlobalAveragePooling2D()(network(inputs, training=False)))
    theirs = keras.Model(inputs, outputs)
    dense.set_weights([head.weight.detach().numpy().T, head.bias.detach().numpy()])
    expected: list[tuple[float, float]] = []
    for optimizer in (keras.optimizers.Adam(HEAD_LR), keras.optimizers.SGD(FINETUNE_LR, momentum=0.9, nesterov=True)):
        theirs.compile(optimizer, "sparse_categorical_crossentropy")
        fitted = theirs.fit(
            x, y, batch_size=1000, epochs=EPOCHS, shuffle=False, validation_data=tuple(validation), verbose=0
        )
        expected += zip(fitted.history["loss"], fitted.history["val_loss"], strict=True)
        network.trainable = True
        for layer in network.layers:
            layer.trainable = layer.name.startswith("block5")

    result = train(model, squares_split, augmentation=Augmentation.none(), **AS_KERAS)
    assert [row.phase for row in result.history] == ["head"] * EPOCHS + ["finetune"] * EPOCHS
    actual = [(row.train_loss, row.val_loss) for row in result.history]
    for losses in (expected[:EPOCHS], expected[EPOCHS:]):  # both phases learn
        assert losses[-1] < losses[0]
    # PyTorch's Adam adds 1e-8 to the root, and Keras's 1e-7.
    np.testing.assert_allclose(actual, expected, rtol=1e-3)

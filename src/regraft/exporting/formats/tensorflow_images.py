"""Decoding and resizing of image files in a TensorFlow graph, for SavedModel's signature `encoded`.

Resizing gives the same bits as Pillow: fixed-point weights, rounded and clipped between the horizontal and the vertical
pass. (Pillow 13 takes the vertical pass first for some tall images; their pixels differ slightly.) The graph ignores
EXIF orientation and transparency, and decodes large JPEGs in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from regraft.data.preprocessing import Preprocessing

#: Fractional bits of Pillow's weights.
_PRECISION_BITS = 22
#: Radius of each filter, in pixels of the result.
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}


def file_reader(preprocessing: Preprocessing) -> Callable[[Any], Any]:
    """Return a function from the contents of a JPEG or PNG file, a string tensor, to pixels, uint8 (H, W, 3), RGB."""
    import tensorflow as tf

    (rows, columns), name = preprocessing.shape, preprocessing.interpolation

    def read(contents: Any) -> Any:
        image = tf.cast(tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE"), tf.float64)
        shape = tf.shape(image)
        height, width = tf.cast(shape[0], tf.float64), tf.cast(shape[1], tf.float64)
        if preprocessing.resize == "pad":
            scale = tf.minimum(rows / height, columns / width)
            inner_height, inner_width = (
                tf.maximum(1, tf.cast(tf.round(side * scale), tf.int32)) for side in (height, width)
            )
            inner = _resize(tf, image, (0.0, 0.0, width, height), inner_height, inner_width, name)
            top, left = (rows - inner_height) // 2, (columns - inner_width) // 2
            margins = [[top, rows - inner_height - top], [left, columns - inner_width - left], [0, 0]]
            inside = tf.pad(tf.ones_like(inner), margins)
            color = tf.constant([float(round(255 * channel)) for channel in preprocessing.mean], tf.float64)
            return tf.cast(tf.where(inside > 0, tf.pad(inner, margins), color), tf.uint8)
        left, top = tf.zeros([], tf.float64), tf.zeros([], tf.float64)
        if preprocessing.resize == "crop":
            left = tf.maximum(width - height * columns / rows, 0) / 2
            top = tf.maximum(height - width * rows / columns, 0) / 2
        resized = _resize(tf, image, (left, top, width - left, height - top), rows, columns, name)
        return tf.ensure_shape(tf.cast(resized, tf.uint8), (rows, columns, 3))

    return read


def _resize(tf: Any, image: Any, box: tuple[Any, Any, Any, Any], height: Any, width: Any, name: str) -> Any:
    left, top, right, bottom = box
    horizontal = _weights(tf, tf.shape(image)[1], left, right, width, name)
    rows = _from_fixed_point(tf, tf.einsum("ox,hxc->hoc", horizontal, image))
    vertical = _weights(tf, tf.shape(image)[0], top, bottom, height, name)
    return _from_fixed_point(tf, tf.einsum("oh,hxc->oxc", vertical, rows))


def _weights(tf: Any, size: Any, first: Any, last: Any, out: Any, name: str) -> Any:
    """Return the fixed-point weights of `size` input pixels in each of `out` output pixels, float64 (out, size)."""
    scale = (tf.cast(last, tf.float64) - tf.cast(first, tf.float64)) / tf.cast(out, tf.float64)
    stretch = tf.maximum(scale, 1.0)
    center = tf.cast(first, tf.float64) + (tf.cast(tf.range(out), tf.float64)[:, None] + 0.5) * scale
    pixel = tf.cast(tf.range(size), tf.float64)[None]
    support = _SUPPORT[name] * stretch
    low, high = tf.floor(tf.maximum(center - support + 0.5, 0)), tf.floor(center + support + 0.5)
    weights = FILTERS[name](tf, (pixel - center + 0.5) / stretch)
    weights *= tf.cast((pixel >= low) & (pixel < high), tf.float64)
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
    fixed = weights * 2.0**_PRECISION_BITS
    return tf.sign(fixed) * tf.floor(tf.abs(fixed) + 0.5)


def _from_fixed_point(tf: Any, sums: Any) -> Any:
    return tf.clip_by_value(tf.floor(sums / 2.0**_PRECISION_BITS + 0.5), 0.0, 255.0)


def _bicubic(tf: Any, x: Any) -> Any:
    # The cubic convolution kernel with a = -0.5.
    x = tf.abs(x)
    inner, outer = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return tf.where(x < 1, inner, tf.where(x < 2, outer, tf.zeros_like(x)))


def _lanczos(tf: Any, x: Any) -> Any:
    def sinc(value: Any) -> Any:
        one = tf.ones_like(value)
        angle = tf.where(tf.equal(value, 0), one, value) * math.pi
        return tf.where(tf.equal(value, 0), one, tf.sin(angle) / angle)

    return tf.where(tf.abs(x) < 3, sinc(x) * sinc(x / 3), tf.zeros_like(x))


#: Filters by their names in `Preprocessing`. "nearest" is missing, since it takes no weights.
FILTERS: dict[str, Callable[[Any, Any], Any]] = {
    "bilinear": lambda tf, x: tf.maximum(1.0 - tf.abs(x), 0.0), "bicubic": _bicubic, "lanczos": _lanczos,
}  # fmt: skip

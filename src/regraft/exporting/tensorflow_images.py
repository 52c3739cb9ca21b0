"""From the bytes of an image file to the model's pixels, in TensorFlow's graph.

Enters: the model's preprocessing. Leaves: a function of TensorFlow from the contents of a JPEG or PNG file to uint8
(S, S, 3). It resizes as Pillow does, to the last bit: weights in fixed point, rounded and clipped between rows and
columns. Pillow 13 takes the columns first for some tall images, whose pixels differ a little here. What this does not
do: EXIF rotation, transparency over white, and decoding large JPEGs at a fraction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from regraft.data.preprocessing import Preprocessing

#: Bits of Pillow's weights behind the point, and how far each filter reaches, in pixels of the result.
_BITS = 22
_REACH = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}


def reader(preprocessing: Preprocessing) -> Callable[[Any], Any]:
    """A function from a file's contents, a string tensor, to uint8 (S, S, 3), RGB."""
    import tensorflow as tf

    size, name = preprocessing.size, preprocessing.interpolation

    def read(contents: Any) -> Any:
        image = tf.cast(tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE"), tf.float64)
        shape = tf.shape(image)
        high, wide = tf.cast(shape[0], tf.float64), tf.cast(shape[1], tf.float64)
        if preprocessing.resize == "pad":
            scale = size / tf.maximum(high, wide)
            inner_high, inner_wide = (tf.maximum(1, tf.cast(tf.round(side * scale), tf.int32)) for side in (high, wide))
            inner = _resized(tf, image, (0.0, 0.0, wide, high), inner_high, inner_wide, name)
            top, left = (size - inner_high) // 2, (size - inner_wide) // 2
            ends = [[top, size - inner_high - top], [left, size - inner_wide - left], [0, 0]]
            inside = tf.pad(tf.ones_like(inner), ends)
            colour = tf.constant([float(round(255 * channel)) for channel in preprocessing.mean], tf.float64)
            return tf.cast(tf.where(inside > 0, tf.pad(inner, ends), colour), tf.uint8)
        left, top = tf.zeros([], tf.float64), tf.zeros([], tf.float64)
        if preprocessing.resize == "crop":
            left, top = tf.maximum(wide - high, 0) / 2, tf.maximum(high - wide, 0) / 2
        resized = _resized(tf, image, (left, top, wide - left, high - top), size, size, name)
        return tf.ensure_shape(tf.cast(resized, tf.uint8), (size, size, 3))

    return read


def _resized(tf: Any, image: Any, box: tuple[Any, Any, Any, Any], high: Any, wide: Any, name: str) -> Any:
    """A part of an image, float64 (H, W, 3) of whole numbers, at another size."""
    left, top, right, bottom = box
    across = _weights(tf, tf.shape(image)[1], left, right, wide, name)
    rows = _rounded(tf, tf.einsum("ox,hxc->hoc", across, image))
    down = _weights(tf, tf.shape(image)[0], top, bottom, high, name)
    return _rounded(tf, tf.einsum("oh,hxc->oxc", down, rows))


def _weights(tf: Any, size: Any, first: Any, last: Any, out: Any, name: str) -> Any:
    """What each of `size` pixels gives to each of `out`, float64 (out, size)."""
    scale = (tf.cast(last, tf.float64) - tf.cast(first, tf.float64)) / tf.cast(out, tf.float64)
    stretch = tf.maximum(scale, 1.0)
    centre = tf.cast(first, tf.float64) + (tf.cast(tf.range(out), tf.float64)[:, None] + 0.5) * scale
    place = tf.cast(tf.range(size), tf.float64)[None]
    reach = _REACH[name] * stretch
    low, high = tf.floor(tf.maximum(centre - reach + 0.5, 0)), tf.floor(centre + reach + 0.5)
    weights = FILTERS[name](tf, (place - centre + 0.5) / stretch)
    weights *= tf.cast((place >= low) & (place < high), tf.float64)
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
    fixed = weights * 2.0**_BITS
    return tf.sign(fixed) * tf.floor(tf.abs(fixed) + 0.5)


def _rounded(tf: Any, sums: Any) -> Any:
    return tf.clip_by_value(tf.floor(sums / 2.0**_BITS + 0.5), 0.0, 255.0)


def _bilinear(tf: Any, x: Any) -> Any:
    return tf.maximum(1.0 - tf.abs(x), 0.0)


def _bicubic(tf: Any, x: Any) -> Any:
    """With a = -0.5."""
    x = tf.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return tf.where(x < 1, near, tf.where(x < 2, far, tf.zeros_like(x)))


def _lanczos(tf: Any, x: Any) -> Any:
    def sinc(value: Any) -> Any:
        one = tf.ones_like(value)
        turn = tf.where(tf.equal(value, 0), one, value) * math.pi
        return tf.where(tf.equal(value, 0), one, tf.sin(turn) / turn)

    return tf.where(tf.abs(x) < 3, sinc(x) * sinc(x / 3), tf.zeros_like(x))


#: By their names in `Preprocessing`; "nearest" is none that averages.
FILTERS: dict[str, Callable[[Any, Any], Any]] = {"bilinear": _bilinear, "bicubic": _bicubic, "lanczos": _lanczos}

import io
import json

import numpy as np
import pytest
import sklearn.datasets
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from regraft.data.preprocessing import Preprocessing, read_size
from regraft.errors import ImageError

RESIZES = ("stretch", "crop", "pad")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
unit = st.floats(0, 1, allow_nan=False)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A photograph of 427 x 640."""
    return sklearn.datasets.load_sample_image("flower.jpg")


@pytest.fixture
def thirds() -> np.ndarray:
    """Red, green and blue side by side, each of them square: uint8 (20, 60, 3)."""
    return np.repeat(np.eye(3, dtype=np.uint8)[None] * 255, 20, axis=0).repeat(20, axis=1)


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(8, 24),
    st.sampled_from(RESIZES),
    st.sampled_from(INTERPOLATIONS),
)
@settings(max_examples=60, deadline=None)
def test_every_image_becomes_the_square(height, width, size, resize, interpolation):
    image = np.full((height, width, 3), (10, 120, 240), dtype=np.uint8)
    prepared = Preprocessing(size=size, resize=resize, interpolation=interpolation, mean=(0.0, 0.0, 0.0))(image)
    assert prepared.shape == (size, size, 3)
    assert prepared.dtype == np.uint8
    colors = {tuple(color) for color in prepared.reshape(-1, 3).tolist()}
    assert colors <= {(10, 120, 240), (0, 0, 0)}  # one colour stays that colour
    assert (10, 120, 240) in colors
    assert resize == "pad" or len(colors) == 1


@pytest.mark.parametrize("resize", RESIZES)
def test_an_image_of_the_right_size_is_left_alone(photo, resize):
    square = photo[:32, :32]
    np.testing.assert_array_equal(Preprocessing(size=32, resize=resize)(square), square)


def test_stretch_uses_the_whole_image(thirds, photo):
    prepared = Preprocessing(size=15, interpolation="nearest")(thirds)
    np.testing.assert_array_equal(prepared[:, 2], np.full((15, 3), (255, 0, 0)))
    np.testing.assert_array_equal(prepared[:, 7], np.full((15, 3), (0, 255, 0)))
    np.testing.assert_array_equal(prepared[:, 12], np.full((15, 3), (0, 0, 255)))
    reference = np.asarray(Image.fromarray(photo).resize((64, 64), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(Preprocessing(size=64)(photo), reference)


@pytest.mark.parametrize("turned", [False, True])
def test_crop_cuts_the_middle_out(thirds, turned):
    image = thirds.swapaxes(0, 1) if turned else thirds
    prepared = Preprocessing(size=10, resize="crop", interpolation="nearest")(image)
    np.testing.assert_array_equal(prepared, np.full((10, 10, 3), (0, 255, 0)))


@pytest.mark.parametrize("turned", [False, True])
def test_pad_keeps_all_and_fills_with_the_mean(thirds, turned):
    prepared = Preprocessing(size=30, resize="pad", interpolation="nearest", mean=(0.2, 0.4, 0.6))(
        thirds.swapaxes(0, 1) if turned else thirds
    )
    prepared = prepared.swapaxes(0, 1) if turned else prepared
    np.testing.assert_array_equal(prepared[[0, 9, 20, 29]], np.full((4, 30, 3), (51, 102, 153)))
    inner = prepared[10:20]
    for third in range(3):
        expected = np.eye(3, dtype=np.uint8)[third] * 255
        np.testing.assert_array_equal(inner[:, 10 * third : 10 * third + 10], np.full((10, 10, 3), expected))


def test_shrinking_is_antialiased():
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    image = board.astype(np.uint8)[:, :, None].repeat(3, axis=2)
    for interpolation in ("bilinear", "bicubic", "lanczos"):
        prepared = Preprocessing(size=8, interpolation=interpolation)(image)
        assert np.abs(prepared.astype(int) - 127.5).max() < 3


@pytest.mark.parametrize("resize", RESIZES)
def test_files_bytes_and_arrays_give_the_same_pixels(photo, tmp_path, resize):
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "PNG")
    path = tmp_path / "flower.png"
    path.write_bytes(file.getvalue())
    prepare = Preprocessing(size=48, resize=resize)
    for source in (path, str(path), file.getvalue()):
        np.testing.assert_array_equal(prepare(source), prepare(photo))


def test_an_unreadable_image_is_an_image_error(tmp_path):
    with pytest.raises(ImageError, match=r"missing\.png: file not found"):
        Preprocessing(size=32)(tmp_path / "missing.png")


def test_the_limit_on_pixels_reaches_the_decoder():
    file = io.BytesIO()
    Image.new("RGB", (20, 10)).save(file, "PNG")
    assert Preprocessing(size=8)(file.getvalue(), max_pixels=200).shape == (8, 8, 3)
    with pytest.raises(ImageError, match="20 x 10 pixels, more than 199 allowed"):
        Preprocessing(size=8)(file.getvalue(), max_pixels=199)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 7}, "size 7; expected at least 8"),
        ({"size": 0}, "size 0; expected at least 8"),
        ({"size": 32, "resize": "squash"}, "resize 'squash'; expected one of stretch, crop, pad"),
        (
            {"size": 32, "interpolation": "area"},
            "interpolation 'area'; expected one of nearest, bilinear, bicubic",
        ),
    ],
)
def test_what_no_image_could_be_prepared_with_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**values)


@given(
    st.integers(8, 1024),
    st.sampled_from(RESIZES),
    st.sampled_from(INTERPOLATIONS),
    st.tuples(unit, unit, unit),
    st.tuples(unit, unit, unit),
)
@settings(max_examples=50, deadline=None)
def test_json_and_back_is_the_identity(size, resize, interpolation, mean, std):
    before = Preprocessing(size=size, resize=resize, interpolation=interpolation, mean=mean, std=std)
    assert Preprocessing.from_json(json.loads(json.dumps(before.to_json()))) == before


def test_the_value_range_of_the_data_travels_with_the_model(encode):
    dark = encode(np.full((16, 16), 1023, np.uint16), "PNG")
    plain = Preprocessing(size=16)
    fitted = plain.for_value_range(((0.0, 4095.0), (0.0, 0.0)))
    other = fitted.for_value_range(((0.0, 65535.0), (0.0, 0.0)))
    assert (plain(dark).max(), fitted(dark).max(), other) == (255, 64, fitted)
    assert plain.for_value_range(((1000.0, 1046.0), (0.0, 0.0)))(dark).max() == 128  # 127.5, to even
    assert Preprocessing.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted
    old = {name: value for name, value in plain.to_json().items() if name != "value_range"}
    assert Preprocessing.from_json(old)(dark).max() == 4, "a model of version 0.1 was trained with 16 bits"
    assert Preprocessing.from_json(old | {"white": [4095, 0]}) == fitted, "a model of version 0.2"


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("shape", [(24, 48), (60, 20)])
def test_a_height_and_a_width_that_differ(resize, shape):
    """`crop` and `pad` keep the aspect ratio, and the heat map of the input lies over the same part of the image."""
    preprocessing = Preprocessing(size=shape, resize=resize, interpolation="bilinear")
    assert (preprocessing.shape, preprocessing.named_size) == (shape, f"{shape[0]}x{shape[1]}")
    height, width = 120, 160
    image = np.full((height, width, 3), 200, np.uint8)
    image[..., 0], image[..., 1] = np.linspace(0, 255, width), np.linspace(0, 255, height)[:, None]
    pixels = preprocessing(image)
    assert pixels.shape == (*shape, 3)
    inside = pixels[..., 2] == 200
    right, down = (float(np.diff(pixels[..., channel].astype(float), axis=1 - channel).mean()) for channel in (0, 1))
    if resize == "crop":  # a pixel is as wide as it is high
        assert inside.all()
        assert right * width == pytest.approx(down * height, rel=0.1)
    elif resize == "stretch":
        assert inside.all()
        assert right * shape[1] == pytest.approx(down * shape[0], rel=0.1)
    else:
        rows, columns = inside.any(axis=1).sum(), inside.any(axis=0).sum()
        assert columns / rows == pytest.approx(width / height, rel=0.1)
        assert inside.sum() == rows * columns < inside.size
    back = preprocessing.map_to_image(pixels[..., 0].astype(np.float32), width, height)
    seen = preprocessing.map_to_image(np.ones(shape, np.float32), width, height) > 0.99
    assert back.shape == (height, width)
    inner = seen & (np.abs(image[..., 0] - 128.0) < 100)
    assert inner.mean() > 0.2
    assert np.abs(back - image[..., 0])[inner].mean() < 12


def test_equal_sides_are_a_square():
    assert Preprocessing(size=(32, 32)) == Preprocessing(size=32)
    again = Preprocessing.from_json(json.loads(json.dumps(Preprocessing(size=(64, 32)).to_json())))
    assert again == Preprocessing(size=(64, 32))
    assert [read_size(size) for size in (64, "64x32")] == [64, (64, 32)]
    with pytest.raises(ValueError, match="at least 8 pixels"):
        Preprocessing(size=(64, 4))


def test_it_is_a_value():
    assert Preprocessing(size=32) == Preprocessing(size=32)
    assert hash(Preprocessing(size=32)) == hash(Preprocessing(size=32))
    assert Preprocessing(size=32) != Preprocessing(size=32, resize="crop")


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(RESIZES))
@settings(max_examples=50, deadline=None)
def test_a_map_lies_back_over_the_whole_image_or_its_middle(height, width, resize):
    back = Preprocessing(size=16, resize=resize).map_to_image(np.ones((16, 16)), width, height)
    assert back.shape == (height, width)
    assert back.dtype == np.float32
    side = min(height, width)
    assert back.sum() == pytest.approx(side * side if resize == "crop" else height * width)


@pytest.mark.parametrize("resize", RESIZES)
def test_a_map_lies_back_where_its_pixels_came_from(thirds, resize):
    preprocessing = Preprocessing(size=30, resize=resize, interpolation="bilinear")
    for channel in range(3):
        back = preprocessing.map_to_image(preprocessing(thirds)[..., channel] / 255.0, 60, 20)
        if resize == "crop" and channel != 1:  # the outer thirds were cut off
            assert back.max() < 0.2
        else:
            assert back[:, 20 * channel + 6 : 20 * channel + 14].min() > 0.8

"""Which bands are the channels of a data set, and what is measured of them."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.data.band_values import Bands, check_bands, choose_bands, format_numbers, measure_bands, read_numbers
from regraft.errors import DataError, UsageError


def choose(setting: str, *modes: str) -> tuple[int, ...]:
    names = [f"{number}.tif" for number in range(len(modes))]
    return choose_bands(setting, names, np.array([m.encode() for m in modes], "S8"), np.ones(len(modes), int))


def test_numbers_as_people_write_them() -> None:
    assert read_numbers("4,3, 2") == (4, 3, 2)
    assert read_numbers("1-3 8,8") == (1, 2, 3, 8, 8)
    assert read_numbers("") == read_numbers("all") == ()
    for numbers in ((4, 3, 2), (1, 2, 3, 4), (7,), (1, 2)):
        assert read_numbers(format_numbers(numbers)) == numbers
    assert format_numbers(range(1, 14)) == "1-13"
    for wrong in ("0", "3-1", "red", "1.5", "-1", "1,,x", "9999"):
        with pytest.raises(ValueError, match="numbers of bands from 1"):
            read_numbers(wrong)


def test_colors_stay_colors_unless_bands_are_asked_for() -> None:
    assert choose("", "RGB", "L", "RGBA", "I;16", "3xu1") == ()
    assert choose("all", "RGB", "RGB") == (1, 2, 3)
    assert choose("4,1", "RGBA", "13xu1") == (4, 1)
    assert choose("", "13xu2", "13xu2") == tuple(range(1, 14))
    assert choose("") == ()


def test_images_that_differ_are_named() -> None:
    with pytest.raises(
        DataError, match=r"2 with 13 bands, such as 0\.tif; 1 with 4 bands, such as 1\.tif\. .*data\.bands"
    ):
        choose("", "13xu2", "4xu2", "13xu2")
    with pytest.raises(DataError, match=r"1 with 4 bands of gray or colors, such as 1\.tif"):
        choose("", "4xu1", "RGBA")
    with pytest.raises(DataError, match=r"1 image has fewer bands than 5, which data\.bands = 5 needs: 1\.tif \(4\)"):
        choose("5", "13xu2", "4xu2")
    with pytest.raises(
        DataError, match=r"type of numbers: 1 with floats, such as 0\.tif; 1 with integers of more than"
    ):
        choose("", "4xf4", "4xu2")
    with pytest.raises(DataError, match=r"differ in their bands: .* alike: convert or remove some\.$"):
        choose("", "4xu2", "RGB")  # no choice of bands makes these alike
    with pytest.raises(DataError, match=r"bands that all have, such as data\.bands = 1\.$"):
        choose("", "4xu1", "5xu1", "L")
    with pytest.raises(DataError, match=r"such as data\.bands = 1-4\.$"):
        choose("", "13xu2", "4xu2")
    with pytest.raises(UsageError, match=r"data\.bands = 'red': expected all"):
        choose("red", "RGB")


def test_ranges_are_percentiles_over_images_and_mean_and_deviation_follow() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal((100, 5000), (10, 500), (30, 40, 40, 2)).astype(np.int16)
    images[0, 0, 0] = 30_000  # a hot pixel
    bands = measure_bands((2, 1), len(images), lambda i: images[i], 10**6)
    (low, high), (low_of_first, high_of_first) = bands.ranges
    assert low == pytest.approx(5000 - 3.1 * 500, abs=200)
    assert high == pytest.approx(5000 + 3.1 * 500, abs=200)
    assert 60 < low_of_first < 80 < 120 < high_of_first < 140
    assert bands.mean == pytest.approx((0.5, 0.5), abs=0.03)
    assert bands.std == pytest.approx((0.16, 0.16), abs=0.03)
    eight = measure_bands((1,), 2, lambda i: np.full((9, 9, 1), 100 * i, np.uint8), 10**6)
    assert eight.ranges == ((0.0, 255.0),)
    constant = measure_bands((1,), 2, lambda i: np.full((9, 9, 1), 7, np.uint16), 10**6)
    assert constant.ranges == ((7.0, 8.0),)


def test_a_model_takes_the_bands_it_was_built_for() -> None:
    bands = Bands((4, 3), ((0, 1), (0, 1)), (0.5, 0.5), (0.2, 0.2))
    check_bands(bands, (4, 3))
    check_bands(None, ())
    with pytest.raises(UsageError, match=r"takes the bands 4,3 of an image, and of this data gray or colors are used"):
        check_bands(bands, ())
    with pytest.raises(UsageError, match=r"takes gray or colors.*the bands 1-3 are used\. Build it with bands="):
        check_bands(None, (1, 2, 3))
    with pytest.raises(ValueError, match="a lower and a higher value"):
        Bands((1,), ((2.0, 2.0),), (0.5,), (0.2,))

import hashlib
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import affine_transform
from torchvision.transforms import v2

from regraft.data.augmentation import augment as augment_each
from regraft.data.augmentation import describe_color_changes, mix, random_key
from regraft.data.augmentation_options import Augmentation
from regraft.errors import UsageError

ONLY = {
    "flip": Augmentation(flip=1, random_crop=0, color_jitter=0),
    "vertical flip": Augmentation(flip=0, vertical_flip=1, random_crop=0, color_jitter=0),
    "crop": Augmentation(flip=0, random_crop=0.65, color_jitter=0),
    "rotation": Augmentation(flip=0, random_crop=0, color_jitter=0, rotation=30),
    "width shift": Augmentation(flip=0, random_crop=0, color_jitter=0, width_shift=0.3),
    "height shift": Augmentation(flip=0, random_crop=0, color_jitter=0, height_shift=0.3),
    "shear": Augmentation(flip=0, random_crop=0, color_jitter=0, shear=30),
    "zoom": Augmentation(flip=0, random_crop=0, color_jitter=0, zoom=(0.6, 0.9)),
    "brightness": Augmentation(flip=0, random_crop=0, color_jitter=0, brightness=0.5),
    "color": Augmentation(flip=0, random_crop=0, color_jitter=0.4),
    "trivialaugment": Augmentation(flip=0, random_crop=0, color_jitter=0, policy="trivialaugment"),
    "randaugment": Augmentation(flip=0, random_crop=0, color_jitter=0, policy="randaugment"),
}


def only(**changes):
    return Augmentation(**{"flip": 0, "random_crop": 0, "color_jitter": 0, **changes})


KEYS = st.integers(0, 2**63 - 1)


def augment(pixels: torch.Tensor, augmentation: Augmentation, key: int) -> torch.Tensor:
    """Every image by a key that comes from one."""
    return augment_each(pixels, augmentation, [random_key(key, i) for i in range(len(pixels))])


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """Five images with structure: uint8 (5, 3, 24, 32)."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (5, 3, 6, 8), dtype=np.uint8)
    return torch.from_numpy(coarse.repeat(4, axis=2).repeat(4, axis=3).copy())


def random_states() -> tuple[bytes, str, str]:
    return torch.get_rng_state().numpy().tobytes(), str(np.random.get_state()), str(random.getstate())


@pytest.mark.parametrize("augmentation", [Augmentation(), *ONLY.values()], ids=["default", *ONLY])
def test_the_key_decides_and_nothing_else_is_touched(pixels, augmentation):
    original, before = pixels.clone(), random_states()
    views = augment(pixels, augmentation, key=7)
    assert random_states() == before
    torch.rand(3)  # the program goes on drawing
    assert torch.equal(views, augment(pixels, augmentation, key=7))
    assert torch.equal(pixels, original)
    assert (views.shape, views.dtype, views.device) == (pixels.shape, torch.uint8, pixels.device)
    assert not torch.equal(views, pixels)


@pytest.mark.parametrize("name", [name for name in ONLY if "flip" not in name])
def test_other_keys_give_other_views(pixels, name):
    views = {augment(pixels, ONLY[name], key).numpy().tobytes() for key in range(8)}
    assert len(views) >= 7


@given(KEYS)
@settings(max_examples=30, deadline=None)
def test_flips_mirror(key):
    pixels = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)
    assert torch.equal(augment(pixels, ONLY["flip"], key), pixels.flip(-1))
    assert torch.equal(augment(pixels, ONLY["vertical flip"], key), pixels.flip(-2))
    half = augment(pixels, Augmentation(flip=0.5, random_crop=0, color_jitter=0), key)
    assert all(
        torch.equal(view, image) or torch.equal(view, image.flip(-1)) for view, image in zip(half, pixels, strict=True)
    )


def test_images_of_a_batch_get_views_of_their_own():
    same = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8).repeat(6, 1, 1, 1)
    views = augment(same, Augmentation(), key=1)
    assert len({view.numpy().tobytes() for view in views}) == 6


def test_a_gpu_is_not_seeded(pixels, monkeypatch):
    def refuse(seed: int) -> None:
        raise AssertionError("the program's random state on the GPU was overwritten")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    augment(pixels, Augmentation(), key=3)


def test_the_random_state_comes_back_after_an_error(monkeypatch):
    def fail(self, image):
        raise RuntimeError("a transform that fails")

    before = random_states()
    monkeypatch.setattr(v2.Compose, "forward", fail)
    with pytest.raises(RuntimeError, match="a transform that fails"):
        augment(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), Augmentation(), key=1)
    assert random_states() == before


def test_nothing_to_do_gives_the_images_back(pixels):
    assert torch.equal(augment(pixels, Augmentation.none(), key=1), pixels)
    assert torch.equal(augment(pixels, Augmentation(flip=0, random_crop=0, color_jitter=0, mixup=0.4), key=1), pixels)
    assert augment(pixels[:0], Augmentation(), key=1).shape == (0, 3, 24, 32)


def test_changes_views():
    assert Augmentation().changes_views
    assert all(augmentation.changes_views for augmentation in ONLY.values())
    assert not Augmentation.none().changes_views
    assert not Augmentation(flip=0, random_crop=0, color_jitter=0, mixup=1, cutmix=1).changes_views


def test_a_crop_leaves_out_no_more_than_its_share():
    ramp = torch.linspace(0, 255, 64).to(torch.uint8)
    image = torch.stack([ramp.repeat(64, 1), ramp.repeat(64, 1).T, torch.zeros(64, 64, dtype=torch.uint8)])[None]
    for key in range(30):
        view = augment(image, Augmentation(flip=0, color_jitter=0, random_crop=0.5), key)[0].float()
        width, height = (view[channel].max() - view[channel].min() for channel in (0, 1))
        assert float(width * height) / 255**2 >= 0.5 * 0.9  # antialiasing takes a little off the ends


@pytest.mark.parametrize(
    "values",
    [
        {"flip": 1.5},
        {"flip": -0.1},
        {"random_crop": 1.0},
        {"rotation": 200},
        {"color_jitter": 2},
        {"width_shift": 1},
        {"shear": 90},
        {"zoom": 1.0},
        {"zoom": (1.2, 0.8)},
        {"zoom": (0.0, 1.0)},
        {"brightness": (0.5, float("inf"))},
        {"fill_mode": "mirror"},
        {"fill": 256},
        {"mixup": -1},
        {"flip": float("nan")},
        {"policy": "autoaugment"},
        {"flipp": 0.5},
    ],
)
def test_what_makes_no_sense_is_refused(values):
    with pytest.raises(UsageError, match=next(iter(values))):
        Augmentation(**values)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4))
def test_a_random_key_is_a_seed(parts):
    assert 0 <= random_key(*parts) < 2**63
    assert random_key(*parts) == random_key(*parts)


def test_nearby_keys_are_unrelated():
    keys = {random_key(seed, epoch, step) for seed in range(10) for epoch in range(10) for step in range(10)}
    assert len(keys) == 1000
    bits = np.array([[key >> bit & 1 for bit in range(63)] for key in keys])
    assert abs(bits.mean() - 0.5) < 0.01
    assert random_key(1, 2) != random_key(2, 1)
    assert random_key(-1) != random_key(1)


def one_hot(count: int) -> torch.Tensor:
    return torch.eye(count)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@given(KEYS, st.floats(0.05, 5))
@settings(max_examples=60, deadline=None)
def test_a_mixture_has_the_shares_that_its_targets_say(kind, key, alpha):
    inputs = torch.arange(6.0)[:, None, None, None].expand(6, 2, 8, 12).clone()
    augmentation = Augmentation(**{kind: alpha})
    before = random_states()
    (mixed,), targets = mix([inputs], one_hot(6), augmentation, key)
    assert random_states() == before
    assert mixed.shape == inputs.shape
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(6))
    assert float(targets.min()) >= 0
    # Image i holds the number i everywhere, so the mean of a mixture follows from its targets.
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), targets @ torch.arange(6.0), atol=1e-4, rtol=0)
    if kind == "cutmix":
        assert torch.equal(mixed, mixed.round())  # cut, never blended
    again = mix([inputs], one_hot(6), augmentation, key)
    assert torch.equal(again[0][0], mixed)
    assert torch.equal(again[1], targets)
    assert torch.equal(inputs, torch.arange(6.0)[:, None, None, None].expand(6, 2, 8, 12))


def test_mixup_and_cutmix_take_turns():
    inputs = torch.arange(4.0)[:, None, None, None].expand(4, 1, 8, 8)
    blended = {
        not torch.equal(mixed, mixed.round())
        for (mixed,) in (mix([inputs], one_hot(4), Augmentation(mixup=1, cutmix=1), key)[0] for key in range(30))
    }
    assert blended == {True, False}


def test_no_mixture():
    inputs, targets = torch.rand(4, 3), one_hot(4)
    for augmentation, count in ((Augmentation(), 4), (Augmentation(mixup=1), 1)):
        (mixed,), mixed_targets = mix([inputs[:count]], targets[:count], augmentation, key=1)
        assert torch.equal(mixed, inputs[:count])
        assert torch.equal(mixed_targets, targets[:count])


def test_mixup_works_on_vectors_and_cutmix_says_what_it_needs():
    (mixed,), _ = mix([torch.rand(4, 7)], one_hot(4), Augmentation(mixup=1), key=1)
    assert mixed.shape == (4, 7)
    with pytest.raises(
        UsageError, match=r"CutMix needs maps \(N, C, H, W\), but this backbone gives \(4, 7\)\. Use mixup"
    ):
        mix([torch.rand(4, 7)], one_hot(4), Augmentation(cutmix=1), key=1)


def test_mixtures_keep_the_type():
    inputs = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    for kind in ("mixup", "cutmix"):
        assert mix([inputs], one_hot(4), Augmentation(**{kind: 1.0}), key=1)[0][0].dtype == torch.uint8


def test_a_view_depends_on_its_image_and_key_alone(pixels: torch.Tensor) -> None:
    keys = [random_key(i) for i in range(len(pixels))]
    views = augment_each(pixels, Augmentation(), keys)
    order = [2, 0]
    assert torch.equal(augment_each(pixels[order], Augmentation(), [keys[i] for i in order]), views[order])


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_vectors_beside_maps_are_mixed_by_the_same_share(kind: str) -> None:
    maps, vectors = torch.rand(6, 3, 8, 8), torch.rand(6, 5)
    (_, mixed), targets = mix([maps, vectors], one_hot(6), Augmentation(**{kind: 1.0}), key=3)
    torch.testing.assert_close(mixed, targets @ vectors)


@pytest.mark.parametrize(
    ("fill_mode", "reference"),
    [("nearest", "nearest"), ("reflect", "reflect"), ("wrap", "grid-wrap"), ("constant", "grid-constant")],
)
@pytest.mark.parametrize("change", ["rotation", "width_shift", "height_shift", "shear", "zoom", "all"])
def test_moves_are_those_of_keras(pixels, change, fill_mode, reference, monkeypatch):
    """The matrix of `keras.preprocessing.image.apply_affine_transform`, interpolated by SciPy as there."""
    values = {"rotation": 25.0, "width_shift": 0.3, "height_shift": 0.2, "shear": 20.0, "zoom": 0.3}
    chosen = values if change == "all" else {change: values[change]}
    theta, shear = np.deg2rad(chosen.get("rotation", 0)), np.deg2rad(chosen.get("shear", 0))
    monkeypatch.setattr("regraft.data.augmentation._uniform", _draws(chosen))
    settings = Augmentation(flip=0, random_crop=0, color_jitter=0, fill_mode=fill_mode, fill=40, **chosen)
    (view,) = augment_each(pixels[:1], settings, [0])

    height, width = pixels.shape[-2:]
    zoom = chosen.get("zoom", 0.0)
    rotate = np.array([[np.cos(theta), -np.sin(theta), 0], [np.sin(theta), np.cos(theta), 0], [0, 0, 1]])
    shift = np.array([[1, 0, chosen.get("width_shift", 0) * width], [0, 1, chosen.get("height_shift", 0) * height],
                      [0, 0, 1]])  # fmt: skip
    slant = np.array([[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]])
    matrix = rotate @ shift @ slant @ np.diag([1 + zoom, 1 - zoom, 1])
    center = np.array([[1, 0, width / 2 - 0.5], [0, 1, height / 2 - 0.5], [0, 0, 1]])
    matrix = center @ matrix @ np.linalg.inv(center)
    swapped = matrix[[1, 0, 2]][:, [1, 0, 2]]  # (x, y) to (row, column)
    for channel, image in zip(view.numpy(), pixels[0].numpy(), strict=True):
        expected = affine_transform(
            image.astype(float), swapped[:2, :2], swapped[:2, 2], order=1, mode=reference, cval=40
        )
        assert np.abs(channel - expected).max() <= 0.51


def _draws(chosen):
    """Draws in the order of the module: the highest value of each, and for the second axis of zoom the lowest."""
    zoomed = iter((True, False))

    def uniform(low, high):
        return high if low <= 0 or next(zoomed) else low

    return uniform


def test_a_zoom_below_one_is_closer(pixels):
    """The middle third fills the image, as with Keras's zoom_range=[1/3, 1/3]."""
    image = torch.zeros(1, 3, 30, 30, dtype=torch.uint8)
    image[..., 10:20, 10:20] = 200
    closer = augment(image, Augmentation(flip=0, random_crop=0, color_jitter=0, zoom=(1 / 3, 1 / 3)), key=0)
    assert (closer == 200).float().mean() > 0.85
    farther = augment(image, Augmentation(flip=0, random_crop=0, color_jitter=0, zoom=(2, 2)), key=0)
    assert 0.01 < (farther == 200).float().mean() < 0.04  # a quarter of a ninth


def test_brightness_replaces_that_of_color_jitter(pixels):
    """Two factors, as Keras's brightness_range, multiply the pixels."""
    gray = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    for jitter in (0, 0.3):
        augmentation = Augmentation(flip=0, random_crop=0, color_jitter=jitter, brightness=(1.5, 1.5))
        assert augment(gray, augmentation, key=1).unique().tolist() == [150]


def test_the_views_of_the_defaults_stay_as_they_were(pixels):
    """Golden values: cached views and published figures depend on them."""
    views = augment(pixels[..., :24], Augmentation(), key=7)
    digest = hashlib.sha256(views.numpy().tobytes()).hexdigest()
    assert digest == "2fd96a5338bb1ed0fe08ff332b48b4d5feabf7fbb00b8ebe61559620780ba704"


def test_brightness_and_contrast_of_other_channels_change_and_saturation_does_not():
    """As torchvision does it, which knows one and three channels alone."""
    values = torch.randint(40, 200, (1, 5, 6, 7), dtype=torch.uint8)
    brighter = augment(values, only(brightness=(1.2, 1.2)), key=3)
    assert torch.equal(brighter, (values.float() * 1.2).round().to(torch.uint8))
    views = augment(values.repeat(8, 1, 1, 1), only(color_jitter=0.5), key=3)
    assert views.shape == (8, 5, 6, 7)
    assert len({tuple(view.flatten().tolist()) for view in views}) == 8
    spread = views.float().flatten(1).std(dim=1) / views.float().flatten(1).mean(dim=1)
    assert spread.max() > 1.2 * spread.min(), "contrast changes, too"
    assert describe_color_changes(only(color_jitter=0.5), 3) == describe_color_changes(only(flip=0.5), 5) == ""
    assert "brightness and contrast alone" in describe_color_changes(only(color_jitter=0.5), 5)
    with pytest.raises(UsageError, match="randaugment changes red, green and blue, and the images have 2 channels"):
        describe_color_changes(only(policy="randaugment"), 2)


def test_moves_and_flips_take_any_channels():
    values = torch.randint(0, 256, (1, 6, 9, 8), dtype=torch.uint8)
    assert torch.equal(augment(values, only(flip=1.0), key=0), values.flip(3))
    moved = augment(values, only(rotation=30.0, random_crop=0.3), key=0)
    first = augment(values[:, :3], only(rotation=30.0, random_crop=0.3), key=0)
    assert torch.equal(moved[:, :3], first), "each channel moves as the others do"

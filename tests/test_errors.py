import inspect
import re

import pytest

from regraft import errors
from regraft.errors import ImageError, MissingExtraError, RegraftError, UnknownNameError, UsageError, nearest

TREE = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, RegraftError)]


def test_the_tree_in_the_docstring_is_the_tree_in_the_code():
    drawn = re.findall(r"^\s+((?:[│├└─]\S*\s+)*)(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    assert sorted(name for _, name in drawn) == sorted(error.__name__ for error in TREE)
    path: list[str] = []
    for indent, name in drawn:
        depth = len(indent) // 4
        path[depth:] = [name]
        if depth:
            assert getattr(errors, name).__bases__[0].__name__ == path[depth - 1]


@pytest.mark.parametrize("error", TREE)
def test_exit_codes(error):
    assert error.exit_code == (2 if issubclass(error, UsageError) else 1)
    assert error.__doc__


def test_an_unknown_name_comes_with_near_ones():
    error = UnknownNameError("backbone", "resnet5", ["resnet50", "vgg16", "resnet18"])
    assert str(error) == "Unknown backbone 'resnet5'. Did you mean resnet50 or resnet18?"


def test_an_unknown_name_that_is_like_nothing_comes_with_all():
    error = UnknownNameError("part", "xyz", (name for name in ("train", "val")), hint="Or none at all.")
    assert str(error) == "Unknown part 'xyz'. Known: train, val. Or none at all."


def test_a_missing_extra_says_how_to_install_it():
    assert str(MissingExtraError("Export", "onnx")) == (
        "Export needs the extra 'onnx'. Install it with: pip install 'regraft[onnx]'"
    )


def test_an_image_error_keeps_reason_and_path_apart():
    error = ImageError("empty file", "cat/1.png")
    assert (error.reason, error.path, str(error)) == ("empty file", "cat/1.png", "cat/1.png: empty file")
    assert str(ImageError("empty file")) == "empty file"


def test_nearest():
    assert nearest("trian", ["train", "val", "test"]) == ["train"]
    assert nearest("abc", []) == []
    assert len(nearest("resnet", [f"resnet{i}" for i in range(9)])) == 3

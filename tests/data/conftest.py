"""Small images for tests of data: each name has its own pixels."""

from __future__ import annotations

import hashlib
import importlib
import io
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image


def encode_dicom(values: np.ndarray, *, frames: int = 0, **elements: object) -> bytes:
    """An uncompressed DICOM file of gray values (H, W), colors (H, W, 3), or these after an axis of frames."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    dataset, shape = Dataset(), values.shape[1:] if frames else values.shape
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = shape[:2]
    dataset.SamplesPerPixel, dataset.PlanarConfiguration = (3 if len(shape) > 2 else 1), 0
    dataset.PhotometricInterpretation = "RGB" if len(shape) > 2 else "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * values.itemsize
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    if frames:
        dataset.NumberOfFrames = frames
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.HighBit = dataset.BitsStored - 1
    content = values.tobytes()
    dataset.add_new("PixelData", "OW" if values.itemsize > 1 else "OB", content + b"\0" * (len(content) % 2))
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


Encoded = Callable[[str], bytes]
Encode = Callable[..., bytes]
WriteImages = Callable[..., Path]


@pytest.fixture(scope="session")
def png() -> Encoded:
    """The bytes of a PNG file whose pixels depend on a name."""

    def encode(name: str) -> bytes:
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        pixels = np.random.default_rng(seed).integers(0, 256, (9, 8, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    return encode


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A real photograph, small and neither square nor symmetric: uint8 (43, 61, 3)."""
    image = Image.fromarray(sklearn.datasets.load_sample_image("china.jpg"))
    return np.array(image.resize((61, 43), Image.Resampling.LANCZOS))


@pytest.fixture(scope="session")
def encode() -> Encode:
    def encoded(image: Image.Image | np.ndarray, format: str, **options: object) -> bytes:
        if format == "JXL":
            importlib.import_module("pillow_jxl")  # registers the format
        if format == "DICOM":
            return encode_dicom(np.asarray(image), **options)
        file = io.BytesIO()
        if format == "NPY":
            np.save(file, np.asarray(image))
            return file.getvalue()
        (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, format, **options)
        return file.getvalue()

    return encoded


@pytest.fixture(scope="session")
def large() -> np.ndarray:
    """The whole photograph: uint8 (427, 640, 3)."""
    return np.asarray(sklearn.datasets.load_sample_image("china.jpg"))


@pytest.fixture(scope="session")
def tiff() -> Callable[..., bytes]:
    """An uncompressed TIFF with any bands and bits, which Pillow cannot write; other tags by their numbers."""

    def encode(values: np.ndarray, *, planes: bool = False, **tags: int | Sequence[int]) -> bytes:
        height, width, bands = values.shape
        order = ">" if values.dtype.byteorder == ">" else "<"
        data = np.moveaxis(values, 2, 0).tobytes() if planes else values.tobytes()
        count = bands if planes else 1
        strips = [i * (len(data) // count) for i in range(count)]
        kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
        known = {
            256: width, 257: height, 258: [8 * values.itemsize] * bands, 259: 1, 262: 2 if bands == 3 else 1,
            273: strips, 277: bands, 278: height, 279: [len(data) // count] * count, 284: 1 + planes,
            339: [kind] * bands, **{int(name[1:]): value for name, value in tags.items()},
        }  # fmt: skip
        fields = {tag: np.atleast_1d(value) for tag, value in sorted(known.items())}
        start = 8 + 2 + 12 * len(fields) + 4
        outside = sum(4 * len(field) for field in fields.values() if len(field) > 1)
        fields[273] = fields[273] + start + outside
        entries, more = b"", b""
        for tag, field in fields.items():
            packed = struct.pack(f"{order}{len(field)}I", *field)
            place = packed if len(field) == 1 else struct.pack(f"{order}I", start + len(more))
            entries += struct.pack(f"{order}HHI", tag, 4, len(field)) + place
            more += packed if len(field) > 1 else b""
        header = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(fields))
        return header + entries + b"\0" * 4 + more + data

    return encode


@pytest.fixture
def images(tmp_path: Path, png: Encoded) -> WriteImages:
    """Writes small images, each with other pixels, and returns their folder."""
    root = tmp_path / "data"
    root.mkdir()

    def write(*paths: str) -> Path:
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(png(path))
        return root

    return write

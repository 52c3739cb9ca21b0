"""Damaged image files of every format, examined, decoded and scanned."""

from __future__ import annotations

import io
import json
import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from faults.damage import damage
from faults.forks import Forks
from faults.outcomes import Outcome
from faults.training import Part, Place, write_squares

_FIXTURES = Path(__file__).parents[2] / "tests" / "fixtures"
#: Images of a fork, seconds for one, the limit of growth in megabytes, and that of the address space in bytes.
_BATCH, _SECONDS, _GROWTH_MB, _SPACE = 100, 5, 512, 8 * 2**30


class Images(Part):
    """Each file is measured as a scan does, and decoded as a training does; then a scan reads a folder of them."""

    name, title, count = "images", "Damaged images", 10_000

    def outcomes(self, place: Place, done: Sequence[Outcome], count: int) -> Iterator[Outcome]:
        """See `Part`."""
        known = {outcome.number for outcome in done}
        for start in range(0, count, _BATCH):
            numbers = [number for number in range(start, min(start + _BATCH, count)) if number not in known]
            if numbers:
                with place.temporary() as folder:
                    yield from _outcomes_of(place.forks, folder, numbers)


def _outcomes_of(forks: Forks, folder: Path, numbers: list[int]) -> Iterator[Outcome]:
    """Examine images in one fork after another: each goes on behind the image that ended the one before."""
    report, left = folder / "report.jsonl", numbers
    while left:
        report.write_text("")
        cache = {"REGRAFT_CACHE": str(folder / "cache")}
        ended = forks.call(examine_damaged, left, str(folder), str(report), environment=cache, room=_SPACE, timeout=900)
        found = [Outcome(**json.loads(line)) for line in report.read_text().splitlines()]
        yield from found
        left = left[len(found) :]
        if not left:
            if ended.code:
                yield Outcome(-numbers[0] - 1, "scan of a folder", ended.seconds, ended.problem or ended.text[-600:])
            else:
                yield Outcome(-numbers[0] - 1, "scan of a folder", ended.answer["seconds"], ended.answer["wrong"])
        else:
            wrong = ended.problem or f"the fork ended: {ended.text[-300:]}"
            yield Outcome(left[0], "every format", _SECONDS, wrong)
            left = left[1:]


def examine_damaged(numbers: Sequence[int], folder: str, report: str) -> dict[str, object]:
    """In a fork: examine and decode damaged images, one line of the report each; then scan all of them."""
    from regraft.data.scan import scan

    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process
    bases = encoded_images()
    place = Path(folder) / "data"
    if not place.exists():
        write_squares(place, 2)
    with open(report, "a") as file:
        for number in numbers:
            form, suffix, content = damaged_image(bases, number)
            image = place / ("red", "blue")[number % 2] / f"{number:05}{suffix}"
            image.write_bytes(content)
            signal.alarm(_SECONDS)
            outcome = _examine(number, form, image)
            signal.alarm(0)
            file.write(json.dumps(outcome) + "\n")
            file.flush()
    started, wrong = time.monotonic(), ""
    try:
        scan(place)
    except Exception as error:  # whatever is no explanation for a user
        wrong = _unexpected(error)
    shutil.rmtree(place)
    return {"seconds": time.monotonic() - started, "wrong": wrong}


def _examine(number: int, form: str, image: Path) -> dict[str, object]:
    from regraft.data.decode import decode_image
    from regraft.data.image_stats import examine_image
    from regraft.errors import ImageError

    before, readable, wrong, started = _forget_peak(), False, "", time.monotonic()
    for act in (examine_image, decode_image):
        try:
            act(image)
            readable = True
        except ImageError:
            pass
        except Exception as error:  # whatever is no explanation for a user
            wrong = _unexpected(error)
    seconds, grown = time.monotonic() - started, _memory_mb("VmHWM") - before
    if grown > _GROWTH_MB:
        wrong = wrong or f"memory grew by {grown:.0f} MB"
    return {"number": number, "case": form, "seconds": seconds, "wrong": wrong and f"{image.name}: {wrong}",
            "facts": {"readable": readable, "grown_mb": max(0.0, grown)}}  # fmt: skip


def _unexpected(error: Exception) -> str:
    from regraft.errors import RegraftError

    return "" if isinstance(error, RegraftError) else f"{type(error).__name__}: {error}"


def _forget_peak() -> float:
    """Let the peak of this process's memory begin anew; returns its memory in megabytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory_mb("VmRSS")


def _memory_mb(name: str) -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name)) / 1024


def damaged_image(bases: Sequence[tuple[str, str, bytes]], number: int) -> tuple[str, str, bytes]:
    """The format, suffix and bytes of a damaged image, by its number."""
    draw = random.Random(f"image {number}")
    form, suffix, content = bases[number % len(bases)]
    return form, suffix, damage(draw, content, [other for *_, other in bases])


def encoded_images() -> list[tuple[str, str, bytes]]:
    """Format, suffix and bytes of small images in every format that is read, with the variants of each."""
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    color = Image.fromarray(pixels)
    gray, palette, alpha = color.convert("L"), color.quantize(16), color.convert("RGBA")
    wide = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    made = [
        _encoded("JPEG", ".jpg", color), _encoded("JPEG", ".jpg", color, progressive=True),
        _encoded("JPEG", ".jpg", gray), _encoded("JPEG", ".jpg", color.convert("CMYK")),
        _encoded("PNG", ".png", color), _encoded("PNG", ".png", palette), _encoded("PNG", ".png", wide),
        _encoded("PNG", ".png", alpha), _encoded("WEBP", ".webp", color),
        _encoded("WEBP", ".webp", alpha, lossless=True),
        _encoded("WEBP", ".webp", color, save_all=True, append_images=[gray.convert("RGB")]),
        _encoded("BMP", ".bmp", color), _encoded("BMP", ".bmp", palette), _encoded("GIF", ".gif", palette),
        _encoded("GIF", ".gif", color, save_all=True, append_images=[gray]), _encoded("PPM", ".ppm", color),
        _encoded("PPM", ".pgm", gray), _encoded("AVIF", ".avif", color), _encoded("JPEG2000", ".jp2", color),
        *(_encoded("TIFF", ".tif", image, compression=how) for image in (color, wide)
          for how in (None, "tiff_lzw", "tiff_deflate", "packbits")),
        _encoded("TIFF", ".tif", color, compression="jpeg"),
        *(("TIFF", ".tif", file.read_bytes()) for file in sorted((_FIXTURES / "tiff").glob("*.tif"))),
        *(("HEIF", ".heic", file.read_bytes()) for file in sorted((_FIXTURES / "heic").glob("*.heic"))),
        *(("JXL", ".jxl", file.read_bytes()) for file in sorted((_FIXTURES / "jpeg_xl").glob("*.jxl"))),
        ("DICOM", ".dcm", _dicom(pixels)), ("DICOM", ".dcm", _dicom(np.asarray(wide))),
        ("NPY", ".npy", _npy(pixels)), ("NPY", ".npy", _npy(rng.random((24, 30, 5)).astype(np.float32))),
    ]  # fmt: skip
    return made


def _encoded(form: str, suffix: str, image: Image.Image, **options: object) -> tuple[str, str, bytes]:
    file = io.BytesIO()
    image.save(file, form, **options)
    return form, suffix, file.getvalue()


def _npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def _dicom(values: np.ndarray) -> bytes:
    """An uncompressed DICOM file of gray values (H, W) or colors (H, W, 3)."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    dataset, bits = Dataset(), 8 * values.itemsize
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.SamplesPerPixel, dataset.PlanarConfiguration = (3 if values.ndim > 2 else 1), 0
    dataset.PhotometricInterpretation = "RGB" if values.ndim > 2 else "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
    dataset.add_new("PixelData", "OW" if bits > 8 else "OB", values.tobytes())
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()

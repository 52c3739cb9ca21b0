"""Export a run, and prove that the export answers as the run does.

Enters: a run whose images can still be read. Leaves: a folder for each format, accepted only after it ran in its own
runtime on the run's own validation image files; or an error that says which images differ, and no folder.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regraft.errors import DataError, ExportError, ImageError, UnknownNameError, UsageError
from regraft.exporting.checks import check_file
from regraft.exporting.exported import DESCRIPTION, FORMAT, GOLDEN, PARITY, SCRIPT, ExportedModel
from regraft.exporting.formats import FORMATS
from regraft.exporting.network import PRECISIONS, DeployedNetwork, Precision
from regraft.exporting.parity import LIMITS, Parity, compare_answers
from regraft.exporting.script import script_for
from regraft.files import sha256_of, write_json, write_text
from regraft.models.checkpoint import versions
from regraft.models.inference import infer
from regraft.pipeline.images import SourceOf, images_of
from regraft.pipeline.run import Run
from regraft.training.progress import Listener, Silence

#: Images that the answers are compared on, at most; those that travel with the export; images of one pass.
_COMPARED, _GOLDEN, _BATCH = 2000, 4, 32
#: Bytes of their pixels, at most.
_PIXELS = 2**30
_EXPECTED = "expected.json"
#: Formats that end a file's name, by what Pillow calls them, for the golden images.
_ENDING = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp", b"BM": ".bmp", b"GI": ".gif"}


@dataclass(frozen=True)
class Exported:
    """One export that was accepted.

    Attributes:
        path: Its folder.
        parity: How it compares with the run.
        part: Of the data that was compared on: val, or test of a run without.
        megabytes: Of the format's files, in 10^6 bytes.
        milliseconds: An image, one by one and in batches of 32, from decoded pixels: median of 5 passes here.
        model_milliseconds: The same for the run's own model.
    """

    path: Path
    parity: Parity
    part: str
    megabytes: float
    milliseconds: tuple[float, float]
    model_milliseconds: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **self.parity.to_json(),
            "part": self.part,
            "megabytes": self.megabytes,
            "milliseconds": {"1": self.milliseconds[0], "32": self.milliseconds[1]},
            "model_milliseconds": {"1": self.model_milliseconds[0], "32": self.model_milliseconds[1]},
        }


@dataclass(frozen=True)
class _Images:
    part: str
    names: tuple[str, ...]
    labels: np.ndarray
    pixels: np.ndarray
    source: SourceOf


def export(
    run: Run | Path | str,
    to: Sequence[str] | str,
    *,
    precision: Precision = "fp32",
    data: Path | str | None = None,
    out: Path | str | None = None,
    listener: Listener | None = None,
) -> list[Exported]:
    """Write a run in other formats and prove each.

    Args:
        run: A run, or its folder.
        to: Names of `FORMATS`.
        precision: Of the weights and the arithmetic.
        data: The run's images; default: where the run says that they were.
        out: Folder for the exports; default: `exports` in the run's.
        listener: Told how far the work is.

    Returns:
        One `Exported` a format.

    Raises:
        UnknownNameError: No such format or precision.
        UsageError: A format knows no such precision, an export is there already, or the images are not known to be
            anywhere.
        MissingExtraError: A format needs what is not installed.
        DataError: An image is gone, or another one.
        ExportError: An export does not answer as the run does; nothing of it is left but `NAME.rejected.json`.
    """
    run, listener = run if isinstance(run, Run) else Run(run), listener or Silence()
    names = [to] if isinstance(to, str) else list(dict.fromkeys(to))
    folder = Path(out) if out is not None else run.path / "exports"
    if not names:
        raise UsageError(f"No format is named; expected some of {', '.join(FORMATS)}.")
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, list(PRECISIONS))
    for name in names:
        if name not in FORMATS:
            raise UnknownNameError("format", name, list(FORMATS))
        if precision not in FORMATS[name].precisions:
            raise UsageError(f"{name} is not written in {precision}; expected {', '.join(FORMATS[name].precisions)}.")
        if (folder / _folder_name(name, precision)).exists():
            raise UsageError(f"{folder / _folder_name(name, precision)} is there already. Remove it, or choose --out.")
    images = _validation(run, data)
    network = DeployedNetwork(run.classifier)
    answers = _model_answers(run, images, listener)
    own = _model_times(run, images)
    done = []
    for number, name in enumerate(names):
        listener.work("export", number, len(names), name)
        done.append(_export(run, name, precision, folder, network, images, answers, own, listener))
        listener.work("export", number + 1, len(names), name)
    return done


def _folder_name(name: str, precision: str) -> str:
    return name if precision == "fp32" else f"{name}-{precision}"


def _export(
    run: Run, name: str, precision: Precision, folder: Path, network: DeployedNetwork, images: _Images,
    answers: np.ndarray, own: tuple[float, float], listener: Listener,
) -> Exported:  # fmt: skip
    form, final = FORMATS[name], folder / _folder_name(name, precision)
    folder.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that it comes there in one step, and only once it is proved.
    with tempfile.TemporaryDirectory(prefix=f".{final.name}.", dir=folder) as temporary:
        place = Path(temporary) / final.name
        place.mkdir()
        form.write(network, place, precision, {"classes": json.dumps(run.classes), "made_by": "regraft"})
        write_text(place / SCRIPT, script_for(form, network.model.preprocessing))
        write_json(place / DESCRIPTION, {
            "version": FORMAT,
            "format": name,
            "precision": precision,
            "input": {"name": "images", "shape": ["N", *images.pixels.shape[1:]], "dtype": "uint8", "order": "RGB"},
            "output": {"name": "probabilities", "shape": ["N", len(run.classes)], "dtype": "float32"},
            "classes": list(run.classes),
            "preprocessing": network.model.preprocessing.to_json(),
            "backbone": run.description["backbone"],
            "temperature": network.model.head.temperature,
            "run": {"name": run.path.resolve().name, "sha256": run.description.get("sha256", {})},
            "versions": versions(),
            "sha256": {file: sha256_of(place / file) for file in (*form.files, SCRIPT)},
        })  # fmt: skip
        exported = ExportedModel(place, trust=True)
        parity = compare_answers(images.names, images.labels, answers, _answers(exported, images, listener), precision)
        if parity.faults:
            write_json(folder / f"{final.name}.rejected.json", parity.to_json())
            shown = ", ".join(parity.differing[:5]) + (" ..." if len(parity.differing) > 5 else "")
            raise ExportError(
                f"The {name} export does not answer as the run does: {'; '.join(parity.faults)}. Differing: {shown}. "
                f"All figures are in {folder / f'{final.name}.rejected.json'}; the export was not kept."
            )
        result = Exported(
            final, parity, images.part, sum((place / file).stat().st_size for file in form.files) / 1e6,
            _times(exported.probabilities, images.pixels), own,
        )  # fmt: skip
        write_json(place / PARITY, result.to_json())
        _write_golden(place / GOLDEN, images, answers, run.classes)
        del exported
        place.rename(final)
        (folder / f"{final.name}.rejected.json").unlink(missing_ok=True)  # of an earlier try
    return result


def _validation(run: Run, data: Path | str | None) -> _Images:
    """The run's validation images (its test images where there are none) from their files."""
    source = images_of(run, data)
    if source is None:
        raise UsageError(
            f"{run.path} does not say where its images are now, and an export is proved on them. Expected --data."
        )
    known, preprocessing = run.predictions, run.classifier.preprocessing
    name = "val" if "val" in known.parts else "test"
    part = known.part(name)
    if not len(part):
        raise UsageError(f"{run.path} has no validation and no test images, and an export is proved on them.")
    most = max(_BATCH, min(_COMPARED, _PIXELS // (3 * preprocessing.size**2)))
    # Spread over all, since they are in the order of their names, and so of their classes.
    chosen = np.unique(np.linspace(0, len(part) - 1, min(len(part), most)).round().astype(int))
    pixels = np.empty((len(chosen), preprocessing.size, preprocessing.size, 3), np.uint8)
    for row, i in enumerate(chosen):
        try:
            pixels[row] = preprocessing(source(part.ids[i]))
        except ImageError as error:
            raise DataError(f"{part.ids[i]}: {error.reason}. An export is proved on the run's own images.") from error
    return _Images(name, tuple(part.ids[i] for i in chosen), part.labels[chosen], pixels, source)


def _model_answers(run: Run, images: _Images, listener: Listener) -> np.ndarray:
    found = []
    for start in range(0, len(images.pixels), _BATCH):
        pixels = torch.from_numpy(images.pixels[start : start + _BATCH]).permute(0, 3, 1, 2)
        found.append(infer(run.classifier, pixels)[0])
        listener.work("the run's answers", min(start + _BATCH, len(images.pixels)), len(images.pixels), "images")
    return np.concatenate(found)


def _answers(exported: ExportedModel, images: _Images, listener: Listener) -> np.ndarray:
    found = []
    for start in range(0, len(images.pixels), _BATCH):
        found.append(exported.probabilities(images.pixels[start : start + _BATCH]))
        done = min(start + _BATCH, len(images.pixels))
        listener.work(f"{exported.description['format']} answers", done, len(images.pixels), "images")
    return np.concatenate(found)


def _model_times(run: Run, images: _Images) -> tuple[float, float]:
    return _times(lambda pixels: infer(run.classifier, torch.from_numpy(pixels).permute(0, 3, 1, 2))[0], images.pixels)


def _times(predict: Any, pixels: np.ndarray) -> tuple[float, float]:
    """Milliseconds an image, alone and in batches of 32: the median of five passes after one."""
    found = []
    for count in (1, _BATCH):
        some = np.resize(pixels, (count, *pixels.shape[1:]))
        spent = []
        for _ in range(6):
            started = time.perf_counter()
            predict(some)
            spent.append((time.perf_counter() - started) * 1000 / count)
        found.append(float(np.median(spent[1:])))
    return found[0], found[1]


def _write_golden(folder: Path, images: _Images, answers: np.ndarray, classes: Sequence[str]) -> None:
    """A few image files, of different classes as far as there are, with what the run says of them."""
    folder.mkdir()
    _, firsts = np.unique(images.labels, return_index=True)
    chosen = [*firsts.tolist(), *(i for i in range(len(images.names)) if i not in firsts)][:_GOLDEN]
    rows = []
    for number, i in enumerate(chosen):
        content = images.source(images.names[i])
        assert isinstance(content, bytes)  # of a run's own data, which lies in files
        name = f"{number}{_ENDING.get(content[:2], '.img')}"
        (folder / name).write_bytes(content)
        rows.append({
            "file": name, "sha256": sha256_of(folder / name), "label": classes[int(answers[i].argmax())],
            "probabilities": answers[i].tolist(),
        })  # fmt: skip
    write_json(folder / _EXPECTED, rows)


def verify(path: Path | str, *, trust: bool = False) -> Parity:
    """Check an export anywhere: its files' hashes, and its answers on the golden images.

    Args:
        path: The export's folder.
        trust: Whether a file may be loaded whose format can run code.

    Raises:
        UsageError: There is no such folder, or it needs trust.
        ExportError: It is damaged, changed or hostile, or answers otherwise than it must.
    """
    model = ExportedModel(path, trust=trust)
    file = model.path / GOLDEN / _EXPECTED
    if file.parent.is_symlink():
        raise ExportError(f"{file.parent} is a link, which may lead anywhere.")
    check_file(file)
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        names, hashes, labels = ([str(row[key]) for row in rows] for key in ("file", "sha256", "label"))
        expected = np.array([row["probabilities"] for row in rows], np.float64).reshape(len(rows), len(model.classes))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ExportError(f"{file} is damaged: {error}") from error
    if not names:
        raise ExportError(f"{model.path} has no golden images to check by.")
    for name, digest in zip(names, hashes, strict=True):
        if not re.fullmatch(r"\d+\.\w+", name):
            raise ExportError(f"{file} names the image {name!r}; expected a number and an ending.")
        check_file(file.parent / name)
        if sha256_of(file.parent / name) != digest:
            raise ExportError(f"{file.parent / name} is not the golden image that was exported.")
    if labels != [model.classes[i] for i in expected.argmax(axis=1)]:
        raise ExportError(f"{model.path / DESCRIPTION} has other classes than the golden images, or in another order.")
    pixels = np.stack([model.preprocessing(file.parent / name) for name in names])
    precision = str(model.description.get("precision"))
    if precision not in LIMITS:
        raise ExportError(f"{model.path / DESCRIPTION} is damaged: precision {precision!r}.")
    parity = compare_answers(names, expected.argmax(axis=1), expected, model.probabilities(pixels), precision)
    if parity.faults:
        raise ExportError(f"{model.path} does not answer as it did: {'; '.join(parity.faults)}.")
    return parity

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
from typing import Any, NoReturn

import numpy as np
import torch

from regraft.errors import ExportError, RegraftError, UnknownNameError, UsageError
from regraft.exporting.checks import check_file
from regraft.exporting.exported import DESCRIPTION, FORMAT, GOLDEN, PARITY, SCRIPT, ExportedModel
from regraft.exporting.form import EightBits, first_line
from regraft.exporting.formats import FORMATS
from regraft.exporting.network import PRECISIONS, DeployedNetwork, Precision
from regraft.exporting.parity import AGAIN, Parity, compare_answers
from regraft.exporting.script import script_for
from regraft.files import sha256_of, write_json, write_text
from regraft.models.checkpoint import versions
from regraft.models.inference import infer
from regraft.pipeline.listening import told
from regraft.pipeline.proof_images import Calibration, ProofImages, spread, validation_images
from regraft.pipeline.run import Run
from regraft.shown import Several, Shown
from regraft.training.progress import Listener, Silence

#: Images that travel with an export, and those of one pass.
_GOLDEN, _BATCH = 4, 32
#: Image files that are given to an export that takes them, at most.
_FILES = 200
#: How files begin that TensorFlow's graphs can read: JPEG, PNG.
_TENSORFLOW = (b"\xff\xd8", b"\x89P")
_EXPECTED = "expected.json"
#: Formats that end a file's name, by what Pillow calls them, for the golden images.
_ENDING = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp", b"BM": ".bmp", b"GI": ".gif"}


@dataclass(frozen=True)
class Exported(Shown, by="regraft.pipeline.notebook.exported"):
    """One export that was accepted.

    Attributes:
        path: Its folder.
        parity: How it compares with the run.
        part: Of the data that was compared on: val, or test of a run without.
        megabytes: Of the format's files, in 10^6 bytes.
        milliseconds: An image, one by one and in batches of 32, from decoded pixels: median of 5 passes here.
        model_milliseconds: The same for the run's own model.
        floating: Layers of the backbone that int8 left in float.
        encoded: Where it takes image files as well (SavedModel): on how many JPEG and PNG files that was compared, the
            share of them with the same likeliest class, and the largest difference of a probability.
    """

    path: Path
    parity: Parity
    part: str
    megabytes: float
    milliseconds: tuple[float, float]
    model_milliseconds: tuple[float, float]
    floating: tuple[str, ...] = ()
    encoded: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **self.parity.to_json(),
            "part": self.part,
            "megabytes": self.megabytes,
            "milliseconds": {"1": self.milliseconds[0], "32": self.milliseconds[1]},
            "model_milliseconds": {"1": self.model_milliseconds[0], "32": self.model_milliseconds[1]},
            "left_in_float": list(self.floating),
            "encoded": self.encoded,
        }


@told
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
        listener: Told how far the work is; default: a notebook or terminal that this is called from.

    Returns:
        One `Exported` a format.

    Raises:
        UnknownNameError: No such format or precision.
        UsageError: A format knows no such precision, an export is there already, or the images are not known to be
            anywhere.
        MissingExtraError: A format needs what is not installed.
        DataError: An image is gone, or another one.
        ExportError: An export does not answer as the run does; nothing of it is left but `NAME.rejected.json`. The
            other formats are tried first, and those that were accepted are kept and named.
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
        FORMATS[name].check_installed(precision)
        if (folder / _folder_name(name, precision)).exists():
            raise UsageError(f"{folder / _folder_name(name, precision)} is there already. Remove it, or choose --out.")
    images = validation_images(run, data)
    network = DeployedNetwork(run.classifier)
    answers = _model_answers(run, images, listener)
    own = _model_times(run, images)
    calibration = Calibration(run, network, images.source, listener) if precision == "int8" else None
    done: Several[Exported] = Several()
    failed: list[ExportError] = []
    for number, name in enumerate(names):
        listener.work("export", number, len(names), name)
        try:
            done.append(_export(run, name, precision, folder, network, images, answers, own, calibration, listener))
        except ExportError as error:  # the other formats may do
            failed.append(error)
        listener.work("export", number + 1, len(names), name)
    if failed:
        kept = f" Accepted and kept: {', '.join(str(exported.path) for exported in done)}." if done else ""
        raise ExportError(" ".join(map(str, failed)) + kept) from failed[0]
    return done


def _folder_name(name: str, precision: str) -> str:
    return name if precision == "fp32" else f"{name}-{precision}"


def _export(
    run: Run, name: str, precision: Precision, folder: Path, network: DeployedNetwork, images: ProofImages,
    answers: np.ndarray, own: tuple[float, float], calibration: Calibration | None, listener: Listener,
) -> Exported:  # fmt: skip
    form, final = FORMATS[name], folder / _folder_name(name, precision)
    folder.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that it comes there in one step, and only once it is proved.
    with tempfile.TemporaryDirectory(prefix=f".{final.name}.", dir=folder) as temporary:
        for number, eight_bits in enumerate(calibration.tries() if calibration else (None,)):
            place = Path(temporary) / str(number) / final.name
            place.mkdir(parents=True)
            listener.work(f"write {final.name}", 0, 1, _told(eight_bits))
            metadata = {"classes": json.dumps(run.classes), "made_by": "regraft"}
            try:
                form.write(network, place, precision, metadata, eight_bits)
            except (RegraftError, OSError):
                raise
            except Exception as error:  # each converter has classes of its own
                raise ExportError(f"{final.name} cannot be written: {first_line(error)[:500]}") from error
            listener.work(f"write {final.name}", 1, 1, _told(eight_bits))
            _describe(run, name, precision, place, network, eight_bits)
            exported = ExportedModel(place, trust=True)
            found = _answers(exported, images, listener)
            parity = compare_answers(images.names, images.labels, answers, found, precision)
            if not parity.faults:
                break
        floating = eight_bits.floating if eight_bits else ()
        if parity.faults:
            _reject(folder, final.name, parity, floating)
        result = Exported(
            final, parity, images.part, sum((place / file).stat().st_size for file in form.files) / 1e6,
            _times(exported.probabilities, images.pixels), own, floating, _encoded(exported, images, answers, listener),
        )  # fmt: skip
        write_json(place / PARITY, result.to_json())
        _write_golden(place / GOLDEN, images, answers, found, run.classes)
        del exported
        place.rename(final)
        (folder / f"{final.name}.rejected.json").unlink(missing_ok=True)  # of an earlier try
    return result


def _told(eight_bits: EightBits | None) -> str:
    return f"{len(eight_bits.floating)} layers left in float" if eight_bits and eight_bits.floating else ""


def _describe(
    run: Run, name: str, precision: Precision, place: Path, network: DeployedNetwork, eight_bits: EightBits | None
) -> None:
    """Write what stands beside the format's own files."""
    form, preprocessing = FORMATS[name], network.model.preprocessing
    write_text(place / SCRIPT, script_for(form, preprocessing))
    side = preprocessing.size
    write_json(place / DESCRIPTION, {
        "version": FORMAT,
        "format": name,
        "precision": precision,
        "input": {"name": "images", "shape": ["N", side, side, 3], "dtype": "uint8", "order": "RGB"},
        "output": {"name": "probabilities", "shape": ["N", len(run.classes)], "dtype": "float32"},
        "classes": list(run.classes),
        "preprocessing": preprocessing.to_json(),
        "backbone": run.description["backbone"],
        "temperature": network.model.head.temperature,
        "left_in_float": ["head", *eight_bits.floating] if eight_bits else [],
        "run": {"name": run.path.resolve().name, "sha256": run.description.get("sha256", {})},
        "versions": versions(),
        "sha256": {file: sha256_of(place / file) for file in (*form.files, SCRIPT)},
    })  # fmt: skip


def _reject(folder: Path, name: str, parity: Parity, floating: tuple[str, ...]) -> NoReturn:
    file = folder / f"{name}.rejected.json"
    write_json(file, {**parity.to_json(), "left_in_float": list(floating)})
    shown = ", ".join(parity.differing[:5]) + (" ..." if len(parity.differing) > 5 else "")
    tried = ""
    if floating:
        tried = f" So it is with {len(floating)} layers of the backbone left in float ({', '.join(floating[:3])} ...)."
    raise ExportError(
        f"The {name} export does not answer as the run does: {'; '.join(parity.faults)}. Differing: {shown}.{tried} "
        f"All figures are in {file}; the export was not kept."
    )


def _encoded(
    exported: ExportedModel, images: ProofImages, answers: np.ndarray, listener: Listener
) -> dict[str, Any] | None:
    """How an export that takes image files answers to some of them; None for the others."""
    if not exported.runtime.takes_files:
        return None
    rows, found = [], []
    chosen = spread(len(images.names), _FILES)
    for done, i in enumerate(chosen.tolist(), start=1):
        content = images.source(images.names[i])
        if isinstance(content, bytes) and content[:2] in _TENSORFLOW:
            rows.append(i)
            found.append(exported.runtime.encoded([content])[0])
        listener.work("answers to files", done, len(chosen), "images")
    if not rows:
        return None
    given, ours = np.stack(found), answers[rows]
    return {
        "images": len(rows),
        "agreement": float((given.argmax(axis=1) == ours.argmax(axis=1)).mean()),
        "largest_difference": float(np.abs(given - ours).max()),
    }


def _model_answers(run: Run, images: ProofImages, listener: Listener) -> np.ndarray:
    found = []
    for start in range(0, len(images.pixels), _BATCH):
        pixels = torch.from_numpy(images.pixels[start : start + _BATCH]).permute(0, 3, 1, 2)
        found.append(infer(run.classifier, pixels)[0])
        listener.work("the run's answers", min(start + _BATCH, len(images.pixels)), len(images.pixels), "images")
    return np.concatenate(found)


def _answers(exported: ExportedModel, images: ProofImages, listener: Listener) -> np.ndarray:
    found = []
    for start in range(0, len(images.pixels), _BATCH):
        found.append(exported.probabilities(images.pixels[start : start + _BATCH]))
        done = min(start + _BATCH, len(images.pixels))
        listener.work(f"{exported.description['format']} answers", done, len(images.pixels), "images")
    return np.concatenate(found)


def _model_times(run: Run, images: ProofImages) -> tuple[float, float]:
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


def _write_golden(
    folder: Path, images: ProofImages, answers: np.ndarray, found: np.ndarray, classes: Sequence[str]
) -> None:
    """A few image files, of different classes as far as there are, with what the export says of them.

    Those on which it agrees with the run come first.
    """
    folder.mkdir()
    ours, theirs = answers.argmax(axis=1), found.argmax(axis=1)
    order = np.flatnonzero(ours == theirs)
    order = order if len(order) else np.arange(len(ours))
    firsts = order[np.unique(images.labels[order], return_index=True)[1]]
    chosen = [*firsts.tolist(), *(i for i in order.tolist() if i not in firsts)][:_GOLDEN]
    rows = []
    for number, i in enumerate(chosen):
        content = images.source(images.names[i])
        assert isinstance(content, bytes)  # of a run's own data, which lies in files
        name = f"{number}{_ENDING.get(content[:2], '.img')}"
        (folder / name).write_bytes(content)
        rows.append({
            "file": name, "sha256": sha256_of(folder / name), "label": classes[int(theirs[i])],
            "probabilities": found[i].tolist(), "of_the_run": answers[i].tolist(),
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
    if precision not in AGAIN:
        raise ExportError(f"{model.path / DESCRIPTION} is damaged: precision {precision!r}.")
    found, labels_of = model.probabilities(pixels), expected.argmax(axis=1)
    parity = compare_answers(names, labels_of, expected, found, precision, AGAIN[precision])
    if parity.faults:
        raise ExportError(f"{model.path} does not answer as it did: {'; '.join(parity.faults)}.")
    return parity

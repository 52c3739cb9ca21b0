"""Export of a run to other formats, each of which must predict as the run does.

An export is accepted only after its own runtime predicted the run's validation image files within the limits; otherwise
an error names the images that differ.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

import numpy as np
import torch

from regraft.atomic_io import sha256_of, write_json, write_text
from regraft.attribution.cam import grid_of
from regraft.errors import ExportError, RegraftError, UnknownNameError, UsageError
from regraft.exporting.calibration_data import ParityImages, QuantizationSearch, evenly_spaced, parity_images
from regraft.exporting.exported_model import DESCRIPTION, GOLDEN, PARITY, README, SCRIPT, VERSION, ExportedModel
from regraft.exporting.formats import FORMATS, canonical_format, canonical_precision
from regraft.exporting.formats.base import PRECISIONS, ExportJob, Format, Precision, QuantizationSpec, first_line
from regraft.exporting.inference_module import InferenceModule
from regraft.exporting.parity import Parity, compare_predictions, same_answers
from regraft.exporting.predict_script import predict_script
from regraft.exporting.readme import readme
from regraft.exporting.verify import write_golden_images
from regraft.models.inference import predict_batch
from regraft.models.serialization import versions
from regraft.notebook_repr import NotebookRepr, ResultList
from regraft.report.bill_of_materials import ExportFacts, bill_of_export
from regraft.report.record import RunRecord
from regraft.runs.progress import with_progress
from regraft.runs.record import stored_record
from regraft.runs.report import BILL
from regraft.runs.run import Run
from regraft.timing import time_passes
from regraft.training.callbacks import NullReporter, ProgressReporter

#: Images per batch, and timed passes of a speed.
_BATCH, _PASSES = 32, 5
#: Maximum number of image files on which an export that takes files is measured.
_ENCODED_IMAGES = 200
#: Largest difference of the evidence from the run's, as a share of the largest evidence in the image.
_MAPS_LIMIT = 1e-3
#: First bytes of the files that TensorFlow's graphs can decode: JPEG, PNG.
_TENSORFLOW_FILES = (b"\xff\xd8", b"\x89P")


@dataclass(frozen=True)
class ExportResult(NotebookRepr):
    """An accepted export in a folder, and its comparison with the run on the images of a part of the data.

    `megabytes` is the size of the format's files, `milliseconds` the time per image from decoded pixels in batches of 1
    and of 32. `float_layers` are those that int8 left in float. `encoded` compares SavedModel's signature for image
    files: number of images, share of the same answers as in `Parity`, largest difference of a probability.
    `maps_difference` is the largest difference of the evidence from the run's, as a share of the largest in an image.
    """

    path: Path
    parity: Parity
    part: str
    megabytes: float
    milliseconds: tuple[float, float]
    model_milliseconds: tuple[float, float]
    float_layers: tuple[str, ...] = ()
    encoded: dict[str, Any] | None = None
    maps_difference: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        times = {"milliseconds": self.milliseconds, "model_milliseconds": self.model_milliseconds}
        return {
            **self.parity.to_json(), "part": self.part, "megabytes": self.megabytes,
            **{key: {"1": one, "32": many} for key, (one, many) in times.items()},
            "left_in_float": list(self.float_layers), "encoded": self.encoded,
            "maps_difference": self.maps_difference,
        }  # fmt: skip


@dataclass(frozen=True)
class _Reference:
    """The run, and its own predictions and speed, which exports are compared with."""

    run: Run
    record: RunRecord
    module: InferenceModule
    images: ParityImages
    probabilities: np.ndarray
    milliseconds: tuple[float, float]


@with_progress
def export(
    run: Run | Path | str,
    to: Sequence[str] | str,
    *,
    precision: Precision = "fp32",
    with_maps: bool = False,
    data: Path | str | None = None,
    out: Path | str | None = None,
    reporter: ProgressReporter | None = None,
) -> list[ExportResult]:
    """Export a run to one or more formats, and check that each export predicts as the run does.

    Args:
        run: A run, or its folder.
        to: Names of formats, from `FORMATS`, in any case; `TFLite` is `litert`.
        precision: Precision of weights and arithmetic.
        with_maps: Whether the graph also returns the evidence for each class at each position, from which
            `regraft.explain` makes heat maps of the export; onnx and openvino in fp32. The folder is `NAME-maps`.
        data: The run's images; default: where they were during training.
        out: Folder for the exports; default: `exports` in the run's folder.
        reporter: Receives progress; default: the notebook or terminal, if any.

    Raises:
        UnknownNameError: There is no such format or precision.
        UsageError: A format does not support the precision or maps, the maps of the run need gradients, an export
            exists already, or it is not known where the images are.
        MissingExtraError: A package that a format needs is not installed.
        DataError: An image is missing or has changed.
        ExportError: An export exceeds a limit; only `NAME.rejected.json` is left of it. The other formats are tried
            first, and the message names the exports that were accepted.

    Examples:
        >>> result = regraft.export("runs/photos", "openvino")[0]
        >>> print(result.path)
        runs/photos/exports/openvino
    """
    run, reporter = run if isinstance(run, Run) else Run(run), reporter or NullReporter()
    names = list(dict.fromkeys(map(canonical_format, [to] if isinstance(to, str) else to)))
    if with_maps and run.task == "regression":
        raise UsageError(f"{run.path} gives images numbers, and maps are for classes. Leave out --with-maps.")
    precision = canonical_precision(precision)
    folder = Path(out) if out is not None else run.path / "exports"
    _check_request(names, precision, with_maps, folder)
    module = InferenceModule(run.classifier, with_maps=with_maps)
    images = parity_images(run, data)

    def predict(pixels: np.ndarray) -> np.ndarray:
        return predict_batch(run.classifier, torch.from_numpy(pixels).permute(0, 3, 1, 2))[0]

    probabilities = _predict(predict, images, "predictions of the run", reporter)
    speed = _milliseconds(predict, images.pixels)
    reference = _Reference(run, stored_record(run), module, images, probabilities, speed)
    search = QuantizationSearch(run, module, images.source, reporter) if precision == "int8" else None
    results: ResultList[ExportResult] = ResultList()
    errors: list[ExportError] = []
    for number, name in enumerate(names):
        reporter.on_progress("export", number, len(names), name)
        try:
            results.append(_export(reference, FORMATS[name], precision, folder, search, reporter))
        except ExportError as error:  # the other formats may pass
            errors.append(error)
        reporter.on_progress("export", number + 1, len(names), name)
    if errors:
        accepted = f" Accepted exports: {', '.join(str(result.path) for result in results)}." if results else ""
        raise ExportError(" ".join(map(str, errors)) + accepted) from errors[0]
    return results


def _check_request(names: Sequence[str], precision: Precision, with_maps: bool, folder: Path) -> None:
    if not names:
        raise UsageError(f"No format is given; expected one or more of {', '.join(FORMATS)}.")
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, list(PRECISIONS))
    for name in names:
        if name not in FORMATS:
            raise UnknownNameError("format", name, list(FORMATS))
        supported = FORMATS[name].precisions
        if precision not in supported:
            raise UsageError(f"The format {name} does not support {precision}; expected {', '.join(supported)}.")
        if with_maps and (not FORMATS[name].has_maps or precision != "fp32"):
            capable = ", ".join(known for known, export_format in FORMATS.items() if export_format.has_maps)
            raise UsageError(f"{name} in {precision} has no maps; expected {capable} in fp32 with --with-maps.")
        FORMATS[name].check_installed(precision)
        if (target := folder / _folder_name(name, precision, with_maps)).exists():
            raise UsageError(f"{target} exists already. Remove it, or choose another folder with --out.")


def _folder_name(name: str, precision: str, with_maps: bool) -> str:
    return name + ("" if precision == "fp32" else f"-{precision}") + ("-maps" if with_maps else "")


def _export(
    reference: _Reference, export_format: Format, precision: Precision, folder: Path,
    search: QuantizationSearch | None, reporter: ProgressReporter,
) -> ExportResult:  # fmt: skip
    with_maps = reference.module.stage is not None
    thresholds, deviation = reference.run.classifier.thresholds, reference.images.deviation
    images, final = reference.images, folder / _folder_name(export_format.name, precision, with_maps)
    folder.mkdir(parents=True, exist_ok=True)
    # In a folder beside the final one, so that an accepted export appears there in one step.
    with tempfile.TemporaryDirectory(prefix=f".{final.name}.", dir=folder) as temporary:
        for number, quantization in enumerate(search.candidates() if search else (None,)):
            target = Path(temporary) / str(number) / final.name
            target.mkdir(parents=True)
            float_layers = quantization.float_layers if quantization else ()
            detail = f"{len(float_layers)} layers left in float" if float_layers else ""
            reporter.on_progress(f"write {final.name}", 0, 1, detail)
            _write(reference, export_format, precision, target, quantization)
            reporter.on_progress(f"write {final.name}", 1, 1, detail)
            model = ExportedModel(target, trust=True)
            label = f"predictions of {export_format.name}"
            probabilities = _predict(model.probabilities, images, label, reporter)
            parity = compare_predictions(
                images.names, images.labels, reference.probabilities, probabilities, precision, thresholds=thresholds,
                deviation=deviation,
            )  # fmt: skip
            if not parity.exceeded_limits:
                break
        if parity.exceeded_limits:
            _reject(folder, final.name, parity, float_layers)
        maps_difference = _compare_maps(model, reference) if with_maps else None
        result = ExportResult(
            final, parity, images.part, sum((target / file).stat().st_size for file in export_format.files) / 1e6,
            _milliseconds(model.probabilities, images.pixels), reference.milliseconds, float_layers,
            _compare_encoded(model, reference, reporter), maps_difference,
        )  # fmt: skip
        write_json(target / PARITY, result.to_json())
        write_json(target / BILL, bill_of_export(reference.record, _facts(target, export_format, precision, result)))
        write_golden_images(
            target / GOLDEN, images, reference.probabilities, probabilities, reference.run.classes, thresholds
        )
        del model  # it may keep files of the folder open
        target.rename(final)
        (folder / f"{final.name}.rejected.json").unlink(missing_ok=True)  # from an earlier attempt
    return result


def _write(
    reference: _Reference, export_format: Format, precision: Precision, target: Path,
    quantization: QuantizationSpec | None,
) -> None:  # fmt: skip
    run, preprocessing = reference.run, reference.module.model.preprocessing
    metadata, thresholds = {"classes": json.dumps(run.classes), "made_by": "regraft"}, run.classifier.thresholds
    is_number = run.task == "regression"
    if thresholds:
        metadata["thresholds"] = json.dumps(thresholds)
    try:
        export_format.write(target, ExportJob(reference.module, precision, metadata, quantization))
    except (RegraftError, OSError):
        raise
    except Exception as error:  # the converters' errors have no common base class
        if shutil.disk_usage(target).free < 2**20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
        raise ExportError(f"{target.name} cannot be written: {first_line(error)[:500]}") from error
    has_tree = run.taxonomy is not None
    write_text(target / SCRIPT, predict_script(export_format, preprocessing, task=run.task, has_tree=has_tree))
    backbone, maps = str(run.description["backbone"]["name"]), _maps_of(reference.module)
    about = readme(
        export_format, preprocessing, backbone=backbone, classes=len(run.classes), maps=maps,
        task=run.task, quantity=run.classes[0] if is_number else "", has_tree=has_tree,
        pool_by=run.classifier.pool_by, ordered=run.ordered,
    )  # fmt: skip
    write_text(target / README, about)
    write_json(target / DESCRIPTION, {
        "version": VERSION,
        "format": export_format.name,
        "precision": precision,
        "input": {
            "name": "images", "shape": ["N", *preprocessing.pixel_shape], "dtype": "uint8",
            "order": "RGB" if preprocessing.bands is None else "bands",
        },
        "output": {"name": "probabilities", "shape": ["N", len(run.classes)], "dtype": "float32"},
        "maps": maps,
        "task": run.task,
        "classes": list(run.classes),
        "thresholds": list(thresholds),
        **({"half_width": run.classifier.half_width, "deviation": reference.images.deviation} if is_number else {}),
        **({"ordered": True} if run.ordered else {}),
        **({"taxonomy": run.taxonomy.to_json()} if run.taxonomy else {}),
        **({"pool_by": run.classifier.pool_by} if run.classifier.pool_by else {}),
        "preprocessing": preprocessing.to_json(),
        "backbone": run.description["backbone"],
        "temperature": reference.module.model.head.temperature,
        "left_in_float": ["head", *quantization.float_layers] if quantization else [],
        "run": {"name": run.path.resolve().name, "sha256": run.description.get("sha256", {})},
        "versions": versions(),
        "sha256": {file: sha256_of(target / file) for file in (*export_format.files, SCRIPT)},
    })  # fmt: skip


def _facts(target: Path, export_format: Format, precision: Precision, result: ExportResult) -> ExportFacts:
    """What the bill of materials says of an export beside what it says of the run."""
    parity = result.parity
    return ExportFacts(
        export_format.name,
        precision,
        {file: sha256_of(target / file) for file in (*export_format.files, SCRIPT)},
        {**versions(), **export_format.package_versions(precision)},
        [(parity.metric, parity.score), ("agreement", parity.agreement)],
        result.part,
        datetime.now(UTC).replace(microsecond=0),
    )


def _reject(folder: Path, name: str, parity: Parity, float_layers: tuple[str, ...]) -> NoReturn:
    file = folder / f"{name}.rejected.json"
    write_json(file, {**parity.to_json(), "left_in_float": list(float_layers)})
    differing = ", ".join(parity.differing[:5]) + (" ..." if len(parity.differing) > 5 else "")
    float_note = f" {len(float_layers)} layers were left in float ({', '.join(float_layers[:3])} ...)."
    raise ExportError(
        f"The {name} export does not predict as the run does: {'; '.join(parity.exceeded_limits)}. Images that differ: "
        f"{differing}.{float_note if float_layers else ''} The export was not kept; all figures are in {file}."
    )


def _maps_of(module: InferenceModule) -> dict[str, Any] | None:
    """What `export.json` says of the maps."""
    if module.stage is None:
        return None
    model = module.model
    return {"stage": model.stages[module.stage].name, "grid": grid_of(model, module.stage),
            "activation": model.head.activation}  # fmt: skip


def _compare_maps(model: ExportedModel, reference: _Reference) -> float:
    """Return the largest difference of the evidence; raises `ExportError` if it is above the limit."""
    pixels = reference.images.pixels[:_BATCH]
    with torch.inference_mode():
        expected = reference.module(torch.from_numpy(pixels))[-1].numpy()
    largest = np.abs(expected).max(axis=(1, 2, 3), keepdims=True).clip(min=np.finfo(np.float32).tiny)
    difference = float((np.abs(model.evidence(pixels).maps - expected) / largest).max())
    if not difference <= _MAPS_LIMIT:
        raise ExportError(
            f"The maps of {model.path.name} are not those of the run: the evidence differs by {difference:.2g} of its "
            f"largest value (limit {_MAPS_LIMIT:g}). The export was not kept."
        )
    return difference


def _compare_encoded(model: ExportedModel, reference: _Reference, reporter: ProgressReporter) -> dict[str, Any] | None:
    predict_files, images = model.runtime.predict_files, reference.images
    if predict_files is None:
        return None
    rows, predictions = [], []
    chosen = evenly_spaced(len(images.names), _ENCODED_IMAGES)
    for done, i in enumerate(chosen.tolist(), start=1):
        content = images.source(images.names[i])
        if isinstance(content, bytes) and content[:2] in _TENSORFLOW_FILES:
            rows.append(i)
            predictions.append(predict_files([content])[0])
        reporter.on_progress("predictions from files", done, len(chosen), "images")
    if not rows:
        return None
    encoded, expected, deviation = np.stack(predictions), reference.probabilities[rows], images.deviation
    return {
        "images": len(rows),
        "agreement": float(same_answers(expected, encoded, reference.run.classifier.thresholds, deviation).mean()),
        "largest_difference": float(np.abs(encoded - expected).max() / (deviation or 1.0)),
    }


def _predict(
    predict: Callable[[np.ndarray], np.ndarray], images: ParityImages, label: str, reporter: ProgressReporter
) -> np.ndarray:
    batches, count = [], len(images.pixels)
    for start in range(0, count, _BATCH):
        batches.append(predict(images.pixels[start : start + _BATCH]))
        reporter.on_progress(label, min(start + _BATCH, count), count, "images")
    return np.concatenate(batches)


def _milliseconds(predict: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> tuple[float, float]:
    """Return the median time per image in batches of 1 and of 32."""
    medians = []
    for count in (1, _BATCH):
        batch = np.resize(pixels, (count, *pixels.shape[1:]))
        medians.append(1000 * median(time_passes(partial(predict, batch), passes=_PASSES)) / count)
    return medians[0], medians[1]

"""What a model is made of, as a CycloneDX ML-BOM: weights, data, software, metrics, and what it is not for.

Input: the record of a run, and for an export what its files say. Output: JSON values that follow the schema of
CycloneDX 1.6. The same record always gives the same values: the serial number follows from them, and the time is that
of the training. The model card in it is added here, since the library has no class for it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Any

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from regraft.licenses import find_license
from regraft.report.not_for import not_for
from regraft.report.record import RunRecord
from regraft.report.sentences import PARTS
from regraft.report.tasks import REPORTS
from regraft.text import join_truncated, one_line, pluralize

#: Names of the files of a run that its bill refers to, and digits of a hash that are a model's version.
_WEIGHTS, _SPLIT, _CONFIG, _CARD, _DIGITS = "model.safetensors", "split.csv", "config.toml", "MODEL_CARD.md", 12
#: The first fields of the file: what it is, and of what.
_FIRST = ("$schema", "bomFormat", "specVersion", "serialNumber", "version", "metadata")
#: Largest number of classes that are named.
_MAX_NAMED = 100
#: Names of intervals of an evaluation by the types of metrics of a model card, where they differ.
_INTERVALS = {"f1": "macro_f1", "r_squared": "r2"}
_TASKS = {"classification": "image classification", "multilabel": "image classification with several labels",
          "regression": "image regression"}  # fmt: skip


@dataclass(frozen=True)
class ExportFacts:
    """What the bill of an export says that is not in the run's.

    `files` are the SHA-256 of its files, the graph first; `versions` those of the packages that wrote and ran it,
    `metrics` type and value of comparisons with the run, and `part` the part of the images that they are of.
    """

    form: str
    precision: str
    files: Mapping[str, str]
    versions: Mapping[str, str]
    metrics: Sequence[tuple[str, float]]
    part: str
    made: datetime


def bill_of_run(record: RunRecord) -> dict[str, Any]:
    """Return the bill of a run."""
    finished = (record.metrics.get("time") or {}).get("finished")  # earlier versions recorded none
    model = _model(record)
    model.external_references.add(ExternalReference(type=ExternalReferenceType.MODEL_CARD, url=XsUri(_CARD)))
    made = datetime.fromisoformat(finished) if finished else None
    return _bill(record, model, record.description.get("versions") or {}, made, _metrics(record))


def bill_of_export(record: RunRecord, export: ExportFacts) -> dict[str, Any]:
    """Return the bill of an export of the run with this record."""
    graph = next(iter(export.files.values()), "")
    model = _component(
        ComponentType.MACHINE_LEARNING_MODEL, "model", record.name, number=graph[:_DIGITS],
        components=[_component(ComponentType.FILE, f"file:{name}", name, sha256=sha)
                    for name, sha in export.files.items()],
        properties=[Property(name="regraft:format", value=export.form),
                    Property(name="regraft:precision", value=export.precision)],
        pedigree=Pedigree(ancestors=[_model(record, "run")]),
    )  # fmt: skip
    part = f"{PARTS[export.part]} images, by this export"
    compared = [{"type": kind, "value": _number(value), "slice": part} for kind, value in export.metrics]
    return _bill(record, model, export.versions, export.made, [*_metrics(record), *compared])


def _bill(
    record: RunRecord, model: Component, versions: Mapping[str, str], made: datetime | None,
    metrics: list[dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    weights, data = _pretrained(record), _data(record)
    software = [
        _component(ComponentType.LIBRARY, f"package:{name}", name, number=number, purl=_purl("pypi", name, number))
        for name, number in versions.items()
        if name != "python"
    ]
    if python := versions.get("python"):
        software.append(_component(ComponentType.PLATFORM, "python", "Python", number=python))
    parts = [*weights, data, *software]
    if config := record.hashes.get(_CONFIG):
        parts.append(_component(ComponentType.FILE, f"file:{_CONFIG}", _CONFIG, sha256=config))
    number = version("regraft")
    purl = _purl("pypi", "regraft", number)
    tool = _component(ComponentType.APPLICATION, "regraft", "regraft", number=number, purl=purl)
    metadata = BomMetaData(component=model, tools=ToolRepository(components=[tool]), timestamp=made)
    bom = Bom(metadata=metadata, components=parts, serial_number=uuid.UUID(int=0))
    bom.register_dependency(model, parts)
    value: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    if made is None:
        del value["metadata"]["timestamp"]
    value["metadata"]["component"]["modelCard"] = _model_card(record, metrics)
    _described(value["components"], "data")["data"] = [_dataset(record)]
    value["serialNumber"] = ""
    content = json.dumps(value, sort_keys=True)
    value["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, content)}"
    return {name: value[name] for name in dict.fromkeys((*_FIRST, *value))}


def _described(components: Iterable[dict[str, Any]], ref: str) -> dict[str, Any]:
    return next(one for one in components if one["bom-ref"] == ref)


def _component(
    kind: ComponentType, ref: str, name: str, *, sha256: str = "", number: str = "", **more: Any
) -> Component:  # fmt: skip
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else []
    return Component(
        type=kind, bom_ref=one_line(ref), name=one_line(name).strip() or "unknown", version=number or None,
        hashes=hashes, **more,
    )  # fmt: skip


def _purl(kind: str, name: str, number: str | None = None) -> PackageURL:
    namespace, _, name = name.rpartition("/")
    return PackageURL(kind, namespace or None, name, number)


def _model(record: RunRecord, ref: str = "model") -> Component:
    sha256 = record.hashes.get(_WEIGHTS, "")
    return _component(
        ComponentType.MACHINE_LEARNING_MODEL, ref, record.name, sha256=sha256, number=sha256[:_DIGITS],
        properties=[Property(name="regraft:file", value=_WEIGHTS)],
    )  # fmt: skip


def _pretrained(record: RunRecord) -> list[Component]:
    """The pretrained weights, one component for each backbone."""
    weights, backbone = record.description.get("weights") or {}, record.description["backbone"]
    every = list(zip(weights.get("members") or [weights], backbone.get("members") or [backbone], strict=False))
    return [
        _weights(one, str(network.get("timm_name", network["name"])), f"weights:{number}")
        for number, (one, network) in enumerate(every)
        if one.get("source", "none") != "none"
    ]


def _weights(one: Mapping[str, Any], architecture: str, ref: str) -> Component:
    source, name, found = str(one["source"]), str(one.get("name") or ""), find_license(str(one.get("license") or ""))
    places = [ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(name))] if "://" in name else []
    purl = None
    if not places and name and source in ("hub", "wheel"):
        purl = _purl("huggingface" if source == "hub" else "pypi", name)
    licenses = []
    if found.name:
        url = XsUri(found.url) if found.url else None
        spdx, own = (found.name, None) if found.is_spdx else (None, one_line(found.name))
        licenses.append(DisjunctiveLicense(id=spdx, name=own, url=url))
    return _component(
        # Of a file or a run only the name: a published bill names no folder.
        ComponentType.MACHINE_LEARNING_MODEL, ref, name if purl else _last(name) or architecture,
        sha256=str(one.get("sha256") or ""), licenses=licenses, purl=purl, external_references=places,
        properties=[Property(name="regraft:source", value=source),
                    Property(name="regraft:architecture", value=architecture)],
    )  # fmt: skip


def _last(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).name


def _data(record: RunRecord) -> Component:
    text = f"The images. Each is in {_SPLIT} with its label, its part and its SHA-256; the hash is that of {_SPLIT}."
    return _component(
        ComponentType.DATA, "data", _last(record.source) or record.name, sha256=record.hashes.get(_SPLIT, ""),
        description=text,
    )  # fmt: skip


def _dataset(record: RunRecord) -> dict[str, Any]:
    counts = [{"name": f"regraft:images:{part}", "value": str(count)} for part, count in record.image_counts.items()]
    return {"type": "dataset", "name": one_line(_last(record.source) or record.name),
            "contents": {"properties": counts}}  # fmt: skip


def _metrics(record: RunRecord) -> list[dict[str, Any]]:
    """The metrics of the model card's front matter with their intervals."""
    if record.part is None:
        return []
    evaluation, rows = record.evaluations[record.part], []
    for kind, _, value in REPORTS[record.task].document(record).metrics:
        row: dict[str, Any] = {"type": kind, "value": _number(value), "slice": f"{PARTS[record.part]} images"}
        bounds = evaluation.intervals.get(_INTERVALS.get(kind, kind)) or getattr(evaluation, f"{kind}_interval", None)
        if bounds:
            row["confidenceInterval"] = {"lowerBound": _number(bounds[0]), "upperBound": _number(bounds[1])}
        rows.append(row)
    return rows


def _number(value: float) -> str:
    return f"{value:.6g}"


def _model_card(record: RunRecord, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    task, names = _TASKS[record.task], [one_line(name) for name in record.classes]
    limitations = [*record.cautions, *REPORTS[record.task].document(record).limitations, *record.missing]
    answers = f"{pluralize(len(names), 'class', 'classes')}: {join_truncated(names, shown=_MAX_NAMED)}"
    answers = f"the number {names[0]}" if record.task == "regression" else f"probabilities of {answers}"
    size = (record.metrics.get("model") or {}).get("image_size")
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": task,
            "architectureFamily": record.backbone,
            "modelArchitecture": str(record.description["backbone"].get("timm_name", record.backbone)),
            "datasets": [{"ref": "data"}],
            "inputs": [{"format": f"image files, resized to {size} pixels" if size else "image files"}],
            "outputs": [{"format": answers}],
        },
        **({"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}),
        "considerations": {
            "useCases": [f"{task[0].upper()}{task[1:]} of images like the training images: {answers}"],
            "technicalLimitations": [
                *(f"Not for: {one_line(text)}" for text in not_for(record)), *(one_line(text) for text in limitations)
            ],
        },
    }  # fmt: skip

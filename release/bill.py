"""The bill of materials of the package: CycloneDX 1.6, every dependency at the version that the gate passed with."""

from __future__ import annotations

import json
import tomllib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from builds import digest
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from failure import ReleaseError
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: What only one system has, and constraints.txt leaves out.
_PLATFORM_ONLY = ("nvidia-", "cuda-", "triton", "colorama", "setuptools")


def write_bill(root: Path, out: Path, files: Sequence[Path], seconds: int) -> None:
    """Write the bill of these distribution files; the same commit gives the same bytes.

    Raises `ReleaseError` if a dependency has no version in constraints.txt, or the bill breaks the schema.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    graph = dependencies(project["dependencies"], pins_of(root / "constraints.txt"))
    parts = {
        name: Component(
            type=ComponentType.LIBRARY, bom_ref=f"{name}@{version}", name=name, version=version,
            purl=PackageURL("pypi", None, name, version), licenses=_licenses(name),
        )
        for name, (version, _) in sorted(graph.items())
    }  # fmt: skip
    product = Component(
        type=ComponentType.LIBRARY, bom_ref="regraft", name=project["name"], version=project["version"],
        description=project["description"], purl=PackageURL("pypi", None, project["name"], project["version"]),
        licenses=[LicenseExpression(project["license"])],
        components=[
            Component(type=ComponentType.FILE, bom_ref=file.name, name=file.name,
                      hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest(file))])
            for file in files
        ],
    )  # fmt: skip
    made = datetime.fromtimestamp(seconds, UTC)
    bom = Bom(metadata=BomMetaData(component=product, timestamp=made), components=parts.values())
    names = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    bom.register_dependency(product, [parts[name] for name in sorted(names & set(parts))])
    for name, (_, needed) in graph.items():
        bom.register_dependency(parts[name], [parts[one] for one in sorted(needed)])
    content = json.dumps(
        sorted(digest(file) for file in files) + sorted(one.bom_ref.value or "" for one in parts.values())
    )
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_OID, content)
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    if problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ReleaseError(f"The bill of materials breaks the schema of CycloneDX: {problem}")
    out.write_text(text + "\n", encoding="utf-8")


def pins_of(file: Path) -> dict[str, str]:
    """The versions in constraints.txt, by the names of packages."""
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def dependencies(requirements: Sequence[str], pins: Mapping[str, str]) -> dict[str, tuple[str, set[str]]]:
    """All packages that these need here: version, and the packages that each needs, by its name.

    Raises `ReleaseError` if one is not installed or has no version, unless only some systems have it.
    """
    found: dict[str, tuple[str, set[str]]] = {}
    waiting = list(_needed(requirements))
    while waiting:
        name = waiting.pop()
        if name in found or name.startswith(_PLATFORM_ONLY):
            continue
        if name not in pins:
            raise ReleaseError(f"constraints.txt has no version of {name}. Renew it: make constraints")
        needed = set(_needed(_installed(name).requires or ()))
        found[name] = pins[name], {one for one in needed if not one.startswith(_PLATFORM_ONLY)}
        waiting.extend(needed)
    return found


def _needed(requirements: Sequence[str]) -> Iterator[str]:
    for one in map(Requirement, requirements):
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            yield str(canonicalize_name(one.name))


def _installed(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError as error:
        raise ReleaseError(f"{name} is not installed here, and its own dependencies are not known.") from error


def _licenses(name: str) -> list[LicenseExpression]:
    """The license expression of an installed package; none where its metadata has no SPDX expression."""
    expression = _installed(name).metadata.get("License-Expression")
    return [LicenseExpression(expression)] if expression else []

"""The files that start a Ray cluster elsewhere are valid, and their commands exist with these options."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from typer.main import get_command

from regraft.cli import app

RAY = Path(__file__).parent.parent.parent / "deploy" / "ray"
VERBS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]  # a group


def check_command(line: str) -> None:
    """The verb exists, and so do its options."""
    _, verb, *words = shlex.split(line)
    known = {option for parameter in VERBS[verb].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_the_job_of_kuberay_has_what_its_schema_requires() -> None:
    job = yaml.safe_load((RAY / "rayjob.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    check_command(job["spec"]["entrypoint"])
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "KubeRay takes strings alone"
        pod = group["template"]["spec"]
        for container in pod["containers"]:
            assert container["image"] == "regraft-ray"
            assert container["resources"]["limits"].keys() == {"cpu", "memory"}
            assert {m["name"] for m in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert f"ray:{cluster['rayVersion']}-" in (RAY / "Dockerfile").read_text(encoding="utf-8")


def test_the_compose_file_has_a_head_and_two_workers() -> None:
    text = (RAY / "compose.yaml").read_text(encoding="utf-8")
    services = yaml.safe_load(text)["services"]
    assert services["worker"]["deploy"]["replicas"] == 2
    assert "--head" in services["head"]["command"]
    port = re.search(r"--port (\d+)", services["head"]["command"])
    assert port is not None
    assert f"--address head:{port[1]}" in services["worker"]["command"]
    (command,) = re.findall(r"exec head (regraft .*)", text)
    check_command(command)


def test_the_script_for_slurm_is_valid_and_says_how_it_is_submitted() -> None:
    script = RAY / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    (example,) = re.findall(r"sbatch deploy/ray/slurm.sh (.*)", script.read_text(encoding="utf-8"))
    check_command(f"regraft {example} --cluster x")


def test_the_image_installs_extras_that_exist() -> None:
    import tomllib

    text = (RAY / "Dockerfile").read_text(encoding="utf-8")
    (extras,) = re.findall(r"'\.\[(.*)\]'", text)
    project = tomllib.loads((RAY.parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    (ray,) = map(Requirement, project["optional-dependencies"]["ray"])
    (version,) = re.findall(r"FROM rayproject/ray:([\d.]+)-", text)
    assert version in ray.specifier


@pytest.mark.parametrize("file", sorted(RAY.iterdir()), ids=lambda file: file.name)
def test_every_file_says_what_it_is_for(file: Path) -> None:
    assert re.match(r"(#!/bin/bash\n)?# \w+ ", file.read_text(encoding="utf-8"))

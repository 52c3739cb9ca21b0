"""Names, engines and thresholds of served models, and the files that deploy them."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from terminal import regraft

from regraft.errors import RegraftError, UsageError
from regraft.exporting.exported_model import ExportedModel
from regraft.models.inference import predict_pixels
from regraft.runs.run import load
from regraft.serving import serve as module
from regraft.serving.http import inference_protocol, static
from regraft.serving.http.app import ADDRESSES, _router
from regraft.serving.limits import Limits
from regraft.serving.serve import ModelSource, check_extra, load_models, serve
from regraft.serving.service import ServedModel

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def load_one(path: Path, **options: Any) -> ServedModel:
    options = {"engine": "same", "min_accuracy": None, "ood_rate": None, "trust": False, **options}
    (model,) = load_models([ModelSource.parse(path)], **options)
    return model


def test_names(run: Path, tmp_path: Path) -> None:
    spaced = tmp_path / "my squares"
    shutil.copytree(run, spaced)
    assert ModelSource.parse(spaced).name == "my-squares"
    assert ModelSource.parse(f"cells={spaced}").name == "cells"
    assert ModelSource.parse(load(spaced)).path == spaced
    assert ModelSource.parse(spaced / "exports" / "onnx").name == "my-squares-onnx"
    with_sign = tmp_path / "a=b"
    with_sign.symlink_to(run)
    assert ModelSource.parse(with_sign).name == "a-b"
    for wrong in (f"no name={run}", tmp_path / "none", "x="):
        with pytest.raises(UsageError, match="not a folder"):
            ModelSource.parse(wrong)


def test_run_predicts_with_the_bits_of_the_command(run: Path, images: np.ndarray) -> None:
    model = load_one(run, ood_rate=0.3)
    assert model.engine.name == "torch"
    assert load(run).description["sha256"]["model.safetensors"].startswith(model.version)
    assert model.rejection_policy.ood_threshold == 0.3
    expected = {"Backbone", "Accuracy", "Training images", "Engine", "Accepted answers", "Out-of-distribution images"}
    assert expected <= set(dict(model.facts))
    assert dict(model.facts)["Engine"] == "torch, fp32"
    assert "# squares" in model.card
    assert load_one(run, min_accuracy=0, ood_rate=0).rejection_policy.columns == []
    model.engine.warm_up(4)
    alone = [predict_pixels(load(run).classifier, image[None])[0] for image in images]
    for one, other in zip(model.engine.predict(images), alone, strict=True):
        assert np.array_equal(one.probabilities, other.probabilities)
        assert (one.ood_p_value, one.ood_distance) == (other.ood_p_value, other.ood_distance)


def test_export_predicts_with_its_own_bits(run: Path, images: np.ndarray) -> None:
    folder = run / "exports" / "onnx"
    model = load_one(folder)
    assert (model.engine.name, model.engine.explains, model.rejection_policy.columns) == ("onnx", False, [])
    assert dict(model.facts)["Run"] == "squares"
    export = ExportedModel(folder)
    for one, image in zip(model.engine.predict(images), images, strict=True):
        assert np.array_equal(one.probabilities, export.probabilities(image[None])[0])
    with pytest.raises(UsageError, match="--min-accuracy is for runs"):
        load_one(folder, min_accuracy=0.9)


@pytest.mark.parametrize(("is_faster", "engine"), [(True, "onnx"), (False, "torch")])
def test_fastest_engine_is_chosen(run: Path, monkeypatch: pytest.MonkeyPatch, is_faster: bool, engine: str) -> None:
    monkeypatch.setattr(module, "_TIMED_SECONDS", 0.0)
    assert module._images_per_second(load(run).classifier) > 0

    def rate(model: object) -> float:
        return 100.0 if isinstance(model, ExportedModel) == is_faster else 10.0

    monkeypatch.setattr(module, "_images_per_second", rate)
    model = load_one(run, engine="fastest")
    assert model.engine.name == engine
    assert model.engine.has_ood == (not is_faster)
    if is_faster:
        assert "Not detected" in dict(model.facts)["Out-of-distribution images"]
        with pytest.raises(UsageError, match="--engine same"):
            load_one(run, engine="fastest", ood_rate=0.3)


def test_invalid_arguments_and_a_missing_extra_are_refused(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    check_extra()
    for token in ("short", "with a space in it", "ümlaut-token"):
        with pytest.raises(UsageError, match="token"):
            serve(run, token=token)
    with pytest.raises(UsageError, match="0 models"):
        serve([])
    for origin in ("example.org", "https://example.org/", "https://Example.org", "", "null"):
        with pytest.raises(UsageError, match="expected one such as https"):
            serve(run, allow_origins=[origin])
    for path in ("/a b", "https://example.org/x", "/a/../b", "/a//b", "/a?b"):
        with pytest.raises(UsageError, match="a path such as /classify"):
            serve(run, root_path=path)
    for path in ("/models", "v2/x/"):
        with pytest.raises(UsageError, match="an address of the server"):
            serve(run, root_path=path)
    monkeypatch.setattr(module, "_REQUIRED_MODULES", ("fastapi", "no_such_module"))
    with pytest.raises(UsageError, match=r"pip install 'regraft\[serve\]'"):
        serve(run)


def test_options_of_the_guide_exist() -> None:
    text = regraft("serve", "--help").stdout
    guide = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    for option in set(re.findall(r"`(--[a-z-]+)", guide)) - {"--json"}:
        assert option in text, option


def test_deployment_files_name_existing_files() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    unit = (ROOT / "deploy" / "regraft-serve.service").read_text()
    assert re.search(r"^USER 10001$", dockerfile, flags=re.MULTILINE)
    for name in re.findall(r"^COPY (.+) \S+$", dockerfile, flags=re.MULTILINE):
        assert all((ROOT / part).exists() for part in name.split())
    assert "--token-file %d/token" in unit
    assert "KillMode=mixed" in unit


def test_first_parts_of_all_addresses_are_known() -> None:
    paths = [
        route.path for route in (*_router().routes, *inference_protocol.router().routes, *static.router("").routes)
    ]  # type: ignore[attr-defined]
    assert {path.split("/")[1] for path in paths} | {"openapi.json"} == ADDRESSES | {""}


def serve_until_ended(run: Path, end: Callable[[threading.Event], None], host: str = "127.0.0.1") -> tuple[int, str]:
    """The exit code and address of a server that `end` ends once it has answered."""
    addresses: list[str] = []
    stop = threading.Event()

    def use() -> None:
        assert httpx.get(f"{addresses[0]}/v2/health/ready").status_code == 200
        end(stop)

    code = serve(
        run, host=host, port=0, decoders=1, stop=stop, log_level="error", limits=Limits(drain_delay_seconds=0),
        on_listening=addresses.append, on_ready=lambda: threading.Thread(target=use).start(),
    )  # fmt: skip
    return code, addresses[0]


def test_server_in_a_thread_is_stopped_by_its_event(run: Path) -> None:
    codes: list[tuple[int, str]] = []
    thread = threading.Thread(target=lambda: codes.append(serve_until_ended(run, threading.Event.set, "[::1]")))
    thread.start()
    thread.join(60)
    assert codes[0][0] == 0
    assert codes[0][1].startswith("http://[::1]:")


def test_server_in_a_thread_that_runs_a_loop_ends_with_an_interrupt(run: Path) -> None:
    async def cell() -> tuple[int, str]:
        return serve_until_ended(run, lambda stop: signal.raise_signal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    assert asyncio.run(cell())[0] == 0
    assert signal.getsignal(signal.SIGINT) is before


def test_errors_in_a_running_loop_arrive(run: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    (damaged / "model.safetensors").write_bytes(b"nothing")

    async def cell() -> None:
        serve(damaged, port=0, log_level="error")

    with pytest.raises(RegraftError, match="copy the run again"):
        asyncio.run(cell())


def test_a_confidence_can_be_given_for_exports_too(run: Path) -> None:
    for path in (run, run / "exports" / "onnx"):
        assert load_one(path, ood_rate=0, min_confidence=0.7).rejection_policy.min_confidence == 0.7
    with pytest.raises(UsageError, match="expected one"):
        serve(run, min_accuracy=0.9, min_confidence=0.9)

"""A server that serves only what a key has signed."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from terminal import regraft

from regraft.errors import SignatureError, UsageError
from regraft.serving import serve as serving
from regraft.serving.serve import ModelSource, serve
from regraft.signing.keys import new_key
from regraft.signing.signature import sign
from regraft.signing.verified_copy import verified_copies


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "signing.pem"
    new_key(file)
    return file


@pytest.fixture
def signed(run: Path, key: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(run, tmp_path / "squares"))
    sign(copy / "exports" / "onnx", key=key)
    sign(copy, key=key)
    return copy


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary files, which is empty at the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.glob("regraft-verified-*"))


def answer(client: httpx.Client, model: str, picture: bytes) -> dict[str, Any]:
    """The answer for one picture."""
    headers = {"Content-Type": "image/png"}
    done = client.post(f"/predict?model={model}", content=picture, headers=headers)
    assert done.status_code == 200, done.text
    found: dict[str, Any] = done.json()["images"][0]
    return found


def test_signed_models_are_served_from_a_copy(signed: Path, key: Path, squares_folder: Path, temporary: Path) -> None:
    picture = (squares_folder / "red" / "00.png").read_bytes()
    ready, stop, addresses = threading.Event(), threading.Event(), list[str]()
    models = [signed, f"onnx={signed / 'exports' / 'onnx'}"]
    options = {"port": 0, "decoders": 1, "stop": stop, "on_listening": addresses.append, "on_ready": ready.set}
    options |= {"require_signature": key.with_suffix(".pub"), "log_level": "error"}
    thread = threading.Thread(target=serve, args=(models,), kwargs=options)
    thread.start()
    try:
        assert ready.wait(60)
        copies = [file for file in temporary.rglob("model.safetensors")]
        assert len(copies) == 1
        assert copies[0].parents[2].stat().st_mode & 0o077 == 0
        with httpx.Client(base_url=addresses[0], timeout=30) as client:
            first = [answer(client, name, picture) for name in ("squares", "onnx")]
            for file in (signed / "model.safetensors", signed / "exports" / "onnx" / "model.onnx"):
                file.write_bytes(bytes(file.stat().st_size))  # what is served stays as it was verified
            again = [answer(client, name, picture) for name in ("squares", "onnx")]
            assert first == again
            assert [len(one["top"]) for one in first] == [3, 3]
            assert "signed by the key" in client.get("/models").text
    finally:
        stop.set()
        thread.join()


def test_what_is_not_signed_or_was_changed_is_refused_before_it_is_read(
    run: Path, signed: Path, key: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, name in ((serving, "read_model_json"), (serving, "ExportedModel"), (serving.Run, "__init__")):
        monkeypatch.setattr(place, name, lambda *_, **__: pytest.fail("read before it was verified"))
    public = key.with_suffix(".pub")
    with pytest.raises(SignatureError, match="not signed"):
        serve(run, port=0, require_signature=public)
    (signed / "model.json").write_text('{"format": 2}')
    with pytest.raises(SignatureError, match=r"changed: model\.json"):
        serve(signed, port=0, require_signature=public)
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        serve(signed, port=0, require_signature="nowhere.pub")


def test_files_that_change_while_they_are_copied_are_found(
    signed: Path, key: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copyfile = shutil.copyfile

    def exchanged(source: Path, target: Path, **options: bool) -> None:
        copyfile(source, target, **options)
        if source.name == "model.safetensors":
            target.write_bytes(b"something else")

    monkeypatch.setattr(shutil, "copyfile", exchanged)
    with (
        verified_copies(key.with_suffix(".pub")) as copy_verified,
        pytest.raises(SignatureError, match="was changed while it was read"),
    ):
        ModelSource.parse(signed, copy_verified)


def test_the_command_refuses_with_exit_code_1(signed: Path, key: Path) -> None:
    (signed / "exports" / "extra").write_text("")
    done = regraft("serve", signed, "--port", 0, "--require-signature", key.with_suffix(".pub"))
    assert done.returncode == 1
    assert "added: exports/extra" in done.stderr
    assert "Listening" not in done.stderr

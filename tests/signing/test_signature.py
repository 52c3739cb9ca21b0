"""Signatures of runs and exports: any change of any file is found, and errors say what to do."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from model_signing import hashing, signing, verifying
from terminal import regraft

import regraft as package
from regraft.errors import MissingExtraError, SignatureError, UsageError
from regraft.signing.keys import new_key
from regraft.signing.signature import sign, verify_signature

EXPORT = "exports/exported-program"


@pytest.fixture
def public(key: Path) -> Path:
    return key.with_suffix(".pub")


def test_a_changed_byte_of_any_file_is_found(signed: Path, public: Path) -> None:
    for folder in (signed, signed / EXPORT):
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        assert len(files) == verify_signature(folder, key=public).files + 1
        assert {"model.json", "mlbom.json"} & {file.name for file in files}
        for file in files:
            content = file.read_bytes()
            place = len(content) // 2 if file != folder / "model.sig" else content.index(b'"payload"') + 40
            file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with pytest.raises(SignatureError) as caught:
                verify_signature(folder, key=public)
            if file != folder / "model.sig":
                assert f"changed: {file.relative_to(folder).as_posix()}. If" in str(caught.value)
            file.write_bytes(content)
        assert verify_signature(folder, key=public)


def test_added_removed_and_renamed_files_are_named(signed: Path, public: Path) -> None:
    (signed / ".gitattributes").write_text("a file that other programs ignore")
    (signed / "model.json").rename(signed / "model-1.json")
    with pytest.raises(SignatureError, match=r"added: \.gitattributes, model-1\.json; removed: model\.json"):
        verify_signature(signed, key=public)
    done = regraft("verify", signed, "--signature", "--key", public)
    assert (done.returncode, "removed: model.json" in done.stderr) == (1, True)


def test_a_new_report_needs_a_new_signature(signed: Path, key: Path, public: Path) -> None:
    (signed / "MODEL_CARD.md").write_text("by hand")
    with pytest.raises(SignatureError, match=r"changed: MODEL_CARD\.md"):
        verify_signature(signed, key=public)
    assert regraft("sign", signed, "--key", key).returncode == 0
    assert verify_signature(signed, key=public)
    assert verify_signature(signed / EXPORT, key=public)  # the run's signature covers that of the export


def test_links_and_pipes_are_refused(run: Path, key: Path, public: Path, signed: Path, tmp_path: Path) -> None:
    def as_link(file: Path) -> None:
        outside = tmp_path / "outside"
        file.rename(outside)  # the same content
        file.symlink_to(outside)

    def as_pipe(file: Path) -> None:
        file.unlink()
        os.mkfifo(file)

    def as_folder_link(file: Path) -> None:
        (file.parent / "folder").symlink_to(tmp_path)

    changes: tuple[tuple[Callable[[Path], None], str], ...] = (
        (as_link, "is a link"), (as_pipe, "is no file"), (as_folder_link, "is a link"),
    )  # fmt: skip
    for number, (change, words) in enumerate(changes):
        copy = Path(shutil.copytree(signed, tmp_path / str(number)))
        change(copy / "history.csv")
        with pytest.raises(SignatureError, match=words):
            verify_signature(copy, key=public)
        with pytest.raises(SignatureError, match=words):
            sign(copy, key=key)
    (tmp_path / "latest").symlink_to(signed)  # the folder itself may be given by a link
    assert verify_signature(tmp_path / "latest", key=public)


def test_signatures_that_say_nothing_are_refused(signed: Path, key: Path, public: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    with pytest.raises(SignatureError, match="damaged, or not by the key"):
        verify_signature(signed, key=new_key(other))
    file = signed / "model.sig"
    content = file.read_text()
    for damaged in ("", "[]", "null", "{}", content[:-9], content.replace('"payload"', '"payloads"'), "[" * 100_000):
        file.write_text(damaged)
        with pytest.raises(SignatureError, match="damaged, or not by"):
            verify_signature(signed, key=public)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SignatureError, match="damaged, or not by"):
        verify_signature(signed, key=public)
    (signed / "exports" / "exported-program" / "model.sig").replace(file)  # an authentic one, of something else
    with pytest.raises(SignatureError, match="added: "):
        verify_signature(signed, key=public)
    file.unlink()
    with pytest.raises(SignatureError, match=r"not signed: it has no file model\.sig"):
        verify_signature(signed, key=public)


def test_a_signature_that_leaves_files_out_is_refused(run: Path, key: Path, public: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "squares"))
    config = hashing.Config().set_ignored_paths(paths=["model.safetensors", "model.sig"])
    config = signing.Config().set_hashing_config(config).use_elliptic_key_signer(private_key=key)
    config.sign(copy, copy / "model.sig")
    theirs = verifying.Config().use_elliptic_key_verifier(public_key=public)
    theirs.verify(copy, copy / "model.sig")
    with pytest.raises(SignatureError, match=r"added: model\.safetensors"):
        verify_signature(copy, key=public)


def test_other_programs_verify_our_signatures(signed: Path, public: Path) -> None:
    verifying.Config().use_elliptic_key_verifier(public_key=public).verify(signed, signed / "model.sig")
    (signed / "history.csv").write_text("")
    with pytest.raises(ValueError, match=r"history\.csv"):
        verifying.Config().use_elliptic_key_verifier(public_key=public).verify(signed, signed / "model.sig")


def test_the_command_from_a_key_to_a_verified_run(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "runs" / "squares"))
    done = regraft("sign", "--new-key", "keys/mine.pem", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "keys" / "mine.pem").stat().st_mode & 0o777 == 0o600
    again = regraft("sign", "--new-key", "keys/mine.pem", cwd=tmp_path)
    assert (again.returncode, "never overwritten" in again.stderr) == (2, True)
    done = regraft("sign", copy / EXPORT, copy, "--key", "keys/mine.pem", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == [str(copy / EXPORT / "model.sig"), str(copy / "model.sig")]
    for folder in (copy, copy / EXPORT):
        done = regraft("verify", folder, "--signature", "--key", "keys/mine.pub", "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["files"] > 5
    done = regraft("verify", copy)
    assert (done.returncode, "is a run, whose signature can be verified" in done.stderr) == (1, True)
    assert "Nothing was changed" in regraft("verify", copy, "--signature", "--key", tmp_path / "keys/mine.pub").stdout
    assert regraft("verify", copy / EXPORT, "--trust").returncode == 0  # a signature is no part of the export
    assert package.predict(copy, [run / "plots" / "confusion_matrix.png"])  # nor of a run


def test_a_key_with_a_passphrase(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, key, secret = Path(shutil.copytree(run, tmp_path / "squares")), tmp_path / "key.pem", tmp_path / "secret"
    secret.write_text("correct horse\n")
    assert regraft("sign", "--new-key", key, "--passphrase-file", secret).returncode == 0
    assert b"ENCRYPTED" in key.read_bytes()
    for options, environment, words in (
        ((), "", "has a passphrase. Give it in a file"),
        ((), "wrong", "the passphrase is wrong"),
        ((), "correct horse", None),
        (("--passphrase-file", secret), "wrong", None),
    ):
        monkeypatch.setenv("REGRAFT_KEY_PASSPHRASE", environment)
        done = regraft("sign", copy, "--key", key, *options)
        assert (done.returncode, (words or "") in done.stderr) == (2 if words else 0, True), done.stderr
    assert verify_signature(copy, key=key.with_suffix(".pub"))


def test_what_cannot_be_signed_is_refused(run: Path, key: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"neither a run nor an export: it has no model\.json"):
        sign(tmp_path, key=key)
    copy = Path(shutil.copytree(run, tmp_path / "squares"))
    inside = copy / "plots" / "key.pem"
    new_key(inside)
    with pytest.raises(UsageError, match=r"in .*squares itself, and would travel with it"):
        sign(copy, key=inside)
    (copy / ".lock").touch()
    with pytest.raises(SignatureError, match=r"being trained, or its training was killed.*--resume"):
        sign(copy, key=key)
    assert not (copy / "model.sig").exists()


def test_a_file_name_that_is_no_text_is_refused(run: Path, key: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "squares"))
    with open(os.fsencode(copy) + b"/caf\xe9", "wb"):
        pass
    with pytest.raises(SignatureError, match="a name that is no text"):
        sign(copy, key=key)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sign"], "Expected one of --key FILE, --keyless and --new-key FILE"),
        (["sign", "x", "--key", "k", "--keyless"], "Expected one of"),
        (["sign", "x", "--new-key", "k"], "--new-key only makes a key"),
        (["sign", "--key", "k"], "No folder is given"),
        (["verify", "x", "--key", "k"], "Add --signature"),
        (["verify", ".", "--signature"], "A signature says nothing without who"),
        (["verify", ".", "--signature", "--identity", "me@example.org"], "A signature says nothing without who"),
        (["verify", "nowhere", "--signature", "--key", "k"], "nowhere is not a folder"),
    ],
)
def test_wrong_requests_are_explained(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = regraft(*arguments, cwd=tmp_path)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr


def test_without_the_extra_its_name_is_given(run: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"regraft\[sign\]"):
        sign(run, key=key)
    with pytest.raises(MissingExtraError, match=r"regraft\[sign\]"):
        verify_signature(run, key=key)

from __future__ import annotations

import gc
import hashlib
import io
import struct
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regraft.cache import Cache
from regraft.data import storage as storage_module
from regraft.data.dataset import Dataset
from regraft.data.decode import decode_image
from regraft.data.pixel_cache import load_pixels
from regraft.data.preprocessing import Preprocessing
from regraft.data.scan import scan
from regraft.data.sources import archive as archive_module
from regraft.data.sources import spool as spool_module
from regraft.data.sources.archive import SUFFIXES, Archive
from regraft.data.split import split
from regraft.data.split_file import write_split
from regraft.errors import DataError, ImageError, UsageError

Encoded = Callable[[str], bytes]
NAMES = ("cat/1.png", "cat/2.png", "dog/1.png", "dog/deep/2.png")
#: How `tarfile` is told to write each kind.
MODES = {".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tbz2": "w:bz2", ".tar.xz": "w:xz", ".txz": "w:xz"}


def pack(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files:
                archive.writestr(name, data)
        return path
    mode: Any = next((mode for suffix, mode in MODES.items() if path.name.lower().endswith(suffix)), "w")
    with tarfile.open(path, mode) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def packed(tmp_path: Path, png: Encoded) -> Callable[..., Path]:
    def write(archive: str, *names: str) -> Path:
        return pack(tmp_path / archive, [(name, b"" if name.endswith("/") else png(name)) for name in names])

    return write


def labels_of(dataset: Dataset) -> dict[str, str]:
    return {sample.path: sample.label for sample in dataset.samples}


def reasons_of(dataset: Dataset) -> dict[str, str]:
    return {bad.path: bad.reason for bad in dataset.bad}


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".ZIP", ".Tar.Gz"])
def test_an_archive_is_read_like_the_folder_that_it_was_packed_from(tmp_path, packed, png, suffix):
    dataset = scan(packed(f"data{suffix}", *NAMES))
    for name in NAMES:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(png(name))
    folder = scan(tmp_path / "data")
    assert dataset.samples == folder.samples
    assert (dataset.classes, dataset.notes) == (folder.classes, folder.notes)
    assert dataset.root == tmp_path / f"data{suffix}"
    for sample in dataset.samples:
        assert np.array_equal(decode_image(dataset.source(sample)), decode_image(folder.source(sample)))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data", f"data{suffix}"]  # nothing was unpacked here


def test_a_tar_is_told_by_its_content(packed):
    path = packed("data.tar.gz", *NAMES)
    assert len(scan(path.rename(path.with_name("data.tar")))) == 4
    plain = packed("other.tar", *NAMES)
    assert len(scan(plain.rename(plain.with_name("other.tar.xz")))) == 4


@pytest.mark.parametrize("archive", ["data.zip", "data.tar"])
def test_parts_and_what_systems_leave_in_archives(packed, archive):
    names = [f"{part}/{label}/1.png" for part in ("train", "valid") for label in ("cat", "dog")]
    junk = ["__MACOSX/train/cat/._1.png", "train/cat/._1.png", "train/.DS_Store", "train/dog/Thumbs.db"]
    dataset = scan(packed(archive, *names, *junk, "readme.txt"))
    assert {(s.path, s.label, s.part) for s in dataset.samples} == {
        (name, name.split("/")[1], "train" if name.startswith("train") else "val") for name in names
    }
    assert dataset.ignored == ("readme.txt",)
    assert dataset.bad == ()


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["data/cat/1.png", "data/dog/2.png"], ["cat", "dog"]),
        (["data/", "data/cat/", "data/cat/1.png", "data/dog/2.png", "readme.txt"], ["cat", "dog"]),
        (["./cat/1.png", "./dog/2.png"], ["cat", "dog"]),
        (["a/b/c/cat/1.png", "a/b/c/dog/2.png", "a/b/notes.txt"], ["cat", "dog"]),
        (["test/train/cat/1.png", "test/train/dog/1.png"], ["cat", "dog"]),
        (["train/cat/1.png", "train/dog/1.png"], ["cat", "dog"]),
        (["__MACOSX/data/._x", "data/cat/1.png", "data/dog/2.png"], ["cat", "dog"]),
    ],
)
@pytest.mark.parametrize("archive", ["x.zip", "x.tar"])
def test_one_folder_around_everything_is_entered(packed, archive, names, labels):
    dataset = scan(packed(archive, *names))
    assert dataset.classes == tuple(labels)
    assert {s.part for s in dataset.samples} == ({"train"} if "train" in "/".join(names) else {None})
    assert dataset.notes == ()


def test_images_beside_the_one_folder_keep_it_a_class(packed):
    with pytest.raises(DataError, match=r"x\.zip has one class, 'data'"):
        scan(packed("x.zip", "1.png", "data/cat/1.png", "data/dog/1.png"))


def test_one_class_is_one_class(packed):
    with pytest.raises(DataError, match="has one class, 'cat'"):
        scan(packed("x.zip", "cat/1.png"))
    assert labels_of(scan(packed("x.zip", "cat/1.png"), classes=("cat", "dog"))) == {"cat/1.png": "cat"}


def test_deeper_images_are_noted_by_the_depth_of_the_class(packed):
    dataset = scan(packed("x.zip", "data/cat/1.png", "data/dog/deep/2.png"))
    assert dataset.notes == ("1 image in folders inside a class folder, for example data/dog/deep/2.png.",)


def test_an_empty_class_folder_in_an_archive_is_an_error(packed):
    with pytest.raises(DataError, match="1 class without a readable image: eel"):
        scan(packed("x.tar", *NAMES, "eel/"))


@pytest.mark.parametrize("archive", ["x.zip", "x.tar", "x.tar.gz"])
def test_names_that_lead_out_are_unreadable_and_nothing_is_written(tmp_path, packed, archive):
    inner = tmp_path / "inner"
    inner.mkdir()
    names = ["../cat/evil.png", "cat/../../evil.png", "/cat/evil.png", "C:/cat/evil.png"]
    before = {*tmp_path.rglob("*")} | {tmp_path / "inner" / archive}
    dataset = scan(packed(f"inner/{archive}", *NAMES, *names))
    assert reasons_of(dataset) == {
        "../cat/evil.png": "its path leads out of the archive (..)",
        "cat/../../evil.png": "its path leads out of the archive (..)",
        "/cat/evil.png": "an absolute path; expected a path inside the archive",
        "C:/cat/evil.png": "an absolute path; expected a path inside the archive",
    }
    assert sorted(labels_of(dataset)) == sorted(NAMES)
    assert {*tmp_path.rglob("*")} == before
    with pytest.raises(DataError, match="4 images cannot be read"):
        scan(tmp_path / "inner" / archive, on_unreadable="error")


def test_links_and_devices_in_a_tar_are_unreadable(tmp_path, png):
    path = tmp_path / "x.tar"
    kinds = {"sym": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "dev": tarfile.CHRTYPE, "pipe": tarfile.FIFOTYPE}
    with tarfile.open(path, "w") as archive:
        for name in NAMES:
            info = tarfile.TarInfo(name)
            info.size = len(png(name))
            archive.addfile(info, io.BytesIO(png(name)))
        for name, kind in kinds.items():
            info = tarfile.TarInfo(f"cat/{name}.png")
            info.type, info.linkname = kind, "/etc/passwd" if name == "sym" else "cat/1.png"
            archive.addfile(info)
    dataset = scan(path)
    assert reasons_of(dataset) == {
        "cat/sym.png": "a link; links in an archive are not followed",
        "cat/hard.png": "a link; links in an archive are not followed",
        "cat/dev.png": "a device or pipe, not an image file",
        "cat/pipe.png": "a device or pipe, not an image file",
    }
    assert len(dataset) == 4


def test_a_link_in_a_zip_is_unreadable(tmp_path, png):
    path = pack(tmp_path / "x.zip", [(name, png(name)) for name in NAMES])
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("cat/3.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    assert reasons_of(scan(path)) == {"cat/3.png": "a link; links in an archive are not followed"}


def patched(path: Path, name: str, offset: int, form: str, *values: int) -> None:
    """Write numbers into the central directory's entry of a name, and, where it has them too, its local header."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(name.encode()) - 46
    assert data[entry : entry + 4] == b"PK\1\2"
    struct.pack_into(form, data, entry + offset, *values)
    local = struct.unpack_from("<I", data, entry + 42)[0]
    struct.pack_into(form, data, local + offset - 2, *values)
    path.write_bytes(data)


def test_an_encrypted_member_is_unreadable_with_its_reason(packed):
    path = packed("x.zip", *NAMES)
    patched(path, "dog/deep/2.png", 8, "<H", 1)
    assert reasons_of(scan(path)) == {"dog/deep/2.png": "encrypted: pack the archive again without a password"}


@pytest.mark.parametrize(("method", "name"), [(14, "LZMA"), (99, "AES"), (77, "method 77")])
def test_other_ways_to_compress_are_named(packed, method, name):
    path = packed("x.zip", *NAMES)
    patched(path, "dog/deep/2.png", 10, "<H", method)
    (reason,) = reasons_of(scan(path)).values()
    assert reason == f"compressed with {name}, which is not supported: pack the archive again with Deflate"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_ways_to_compress_that_are_read(tmp_path, png, method):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        for name in NAMES:
            archive.writestr(name, png(name))
    dataset = scan(tmp_path / "x.zip")
    assert [s.sha256 for s in dataset.samples] == [hashlib.sha256(png(name)).hexdigest() for name in sorted(NAMES)]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_member_that_expands_beyond_its_size_is_unreadable_and_not_expanded(tmp_path, png, method):
    path = pack(tmp_path / "x.zip", [(name, png(name)) for name in NAMES])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("cat/bomb.png", bytes(24 * 2**20), method)
    patched(path, "cat/bomb.png", 24, "<I", 1000)
    archive = Archive(path)
    tracemalloc.start()
    try:
        with pytest.raises(OSError, match="larger than the 1,000 bytes that the archive declares"):
            archive.read("cat/bomb.png")
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()
    assert reasons_of(scan(path)) == {"cat/bomb.png": "larger than the 1,000 bytes that the archive declares"}


@pytest.mark.parametrize("archive", ["x.zip", "x.tar", "x.tar.xz"])
def test_a_member_above_the_limit_is_not_read(tmp_path, png, monkeypatch, archive):
    path = pack(tmp_path / archive, [*((name, png(name)) for name in NAMES), ("cat/large.png", bytes(2000))])
    monkeypatch.setattr(archive_module, "FILE_LIMIT", 1000)
    assert reasons_of(scan(path)) == {"cat/large.png": "2,000 bytes uncompressed, more than 1,000 allowed"}


def test_a_wrong_checksum_is_damage(packed):
    path = packed("x.zip", *NAMES)
    patched(path, "cat/2.png", 16, "<I", 12345)
    assert reasons_of(scan(path)) == {"cat/2.png": "damaged: its checksum differs"}


def test_of_members_of_one_name_the_last_counts(tmp_path, png):
    for archive in ("x.zip", "x.tar"):
        files = [(name, png(name)) for name in NAMES]
        if archive.endswith("zip"):
            with pytest.warns(UserWarning, match="Duplicate name"):
                path = pack(tmp_path / archive, [*files, ("cat/1.png", png("other"))])
        else:
            path = pack(tmp_path / archive, [*files, ("cat/1.png", png("other"))])
        dataset = scan(path)
        assert len(dataset) == 4
        assert dataset.samples[0].sha256 == hashlib.sha256(png("other")).hexdigest()


def test_names_from_windows_and_from_macos(tmp_path, png):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for label in ("Vögel", "Hunde"):
            info = zipfile.ZipInfo(f"{label}\\1.png")
            info.create_system = 0
            archive.writestr(info, png(label))
    assert labels_of(scan(tmp_path / "x.zip")) == {"Hunde/1.png": "Hunde", "Vögel/1.png": "Vögel"}
    data = bytearray((tmp_path / "x.zip").read_bytes())
    for at in (i for i in range(len(data)) if data[i : i + 4] in (b"PK\1\2", b"PK\3\4")):
        flags = at + (8 if data[at + 2] == 1 else 6)
        data[flags + 1] &= ~0x08  # UTF-8 without saying so
    (tmp_path / "x.zip").write_bytes(data)
    assert labels_of(scan(tmp_path / "x.zip")) == {"Hunde/1.png": "Hunde", "Vögel/1.png": "Vögel"}


def test_a_name_in_a_tar_that_is_not_utf_8_is_unreadable(packed):
    path = packed("x.tar", *NAMES, "cat/caf?.png")
    data = path.read_bytes().replace(b"cat/caf?.png", b"cat/caf\xe9.png")
    header = data.index(b"cat/caf\xe9.png")
    block = bytearray(data[header : header + 512])
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    path.write_bytes(data[:header] + block + data[header + 512 :])
    assert reasons_of(scan(path)) == {r"cat/caf\udce9.png": "its name is not UTF-8"}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_archive_is_a_data_error(packed, suffix):
    path = packed(f"x{suffix}", *NAMES)
    whole = path.read_bytes()
    for data in (b"", b"no archive at all", whole[: min(len(whole) // 2, 2500)], whole[:300]):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"cannot be read as an archive: .+Download or pack it again"):
            scan(path)


def test_damage_within_a_tar_does_not_pass_for_its_end(packed):
    path = packed("x.tar", *NAMES)
    data = bytearray(path.read_bytes())
    at = data.index(b"dog/1.png")
    data[at] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"damaged at byte {at:,}"):
        scan(path)


def test_a_tar_without_an_end_is_whole(packed):
    path = packed("x.tar", *NAMES)
    data = path.read_bytes()
    path.write_bytes(data[: len(data.rstrip(b"\0")) // 512 * 512 + 512])
    assert len(scan(path)) == 4


def test_a_header_of_a_tar_may_not_claim_gigabytes(packed):
    path = packed("x.tar", *NAMES)
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**40
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + path.read_bytes())
    with pytest.raises(DataError, match="cannot be read as an archive: the header of"):
        scan(path)


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_whatever_is_damaged_nothing_but_a_data_error_comes_out(packed, suffix):
    path = packed(f"x{suffix}", *NAMES)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), rng.integers(1, 6)):
            data[at] = rng.integers(256)
        path.write_bytes(data[: rng.integers(1, len(data))] if rng.random() < 0.2 else data)
        try:
            archive = Archive(path)
        except DataError:
            continue
        for name in archive.top.files_below:
            try:
                archive.read(name)
            except OSError:
                continue


def test_many_threads_read_the_same_as_one(tmp_path, png):
    files = {f"{label}/{i:03d}.png": png(f"{label}{i}") for label in ("cat", "dog") for i in range(60)}
    for archive in ("x.zip", "x.tar.gz"):
        opened = Archive(pack(tmp_path / archive, files.items()))
        with ThreadPoolExecutor(8) as pool:
            for _ in range(3):
                assert list(pool.map(opened.read, files)) == list(files.values())


@pytest.mark.parametrize("archive", ["x.zip", "x.tar", "x.tar.gz"])
def test_a_second_scan_reads_no_image(tmp_path, packed, monkeypatch, archive):
    path, cache = packed(archive, *NAMES), Cache(tmp_path / "store")
    monkeypatch.setattr(storage_module, "SETTLED", 0.0)
    read: list[str] = []
    original = Archive.read

    def counted(self: Archive, name: str) -> bytes:
        read.append(name)
        return original(self, name)

    monkeypatch.setattr(Archive, "source", counted)
    first = scan(path, cache=cache)
    assert sorted(read) == sorted(NAMES)
    read.clear()
    assert scan(path, cache=cache) == first
    assert read == []
    packed(archive, *NAMES, "dog/3.png")
    assert len(scan(path, cache=cache)) == 5
    assert len(read) == 5


def test_a_new_archive_is_not_trusted_to_be_unchanged(packed):
    assert Archive(packed("x.zip", *NAMES)).stamp("cat/1.png") is None


def test_an_archive_that_changed_is_not_read_at_the_old_places(packed):
    path = packed("x.tar", *NAMES)
    dataset = scan(path)
    packed("x.tar", "eel/0.png", *NAMES)
    with pytest.raises(ImageError, match="the archive has changed since it was opened"):
        dataset.source(dataset.samples[0])


def test_the_copy_of_a_compressed_tar_goes_with_the_data_set(tmp_path, packed, monkeypatch):
    spools = tmp_path / "spools"
    spools.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spools))
    dataset = scan(packed("x.tar.gz", *NAMES))
    assert len(list(spools.iterdir())) == 1
    derived = dataset.with_samples(dataset.samples[:1])
    del dataset
    gc.collect()
    assert decode_image(derived.source(derived.samples[0])).shape == (9, 8, 3)
    del derived
    gc.collect()
    assert list(spools.iterdir()) == []


def test_a_compressed_tar_that_is_too_large_says_what_to_do(tmp_path, monkeypatch):
    spools = tmp_path / "spools"
    spools.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spools))
    monkeypatch.setattr(spool_module, "LIMIT", 10**6)
    path = pack(tmp_path / "x.tar.gz", [("cat/1.png", bytes(2 * 10**6))])
    with pytest.raises(
        DataError, match=r"x\.tar\.gz unpacks to more than the 0\.001 GB .*Unpack it and name the folder"
    ):
        scan(path)
    gc.collect()
    assert list(spools.iterdir()) == []


def test_a_run_reads_its_split_and_its_pixels_from_an_archive(tmp_path, packed):
    names = [f"{label}/{i}.png" for label in ("cat", "dog") for i in range(10)]
    path = packed("x.zip", *names)
    parts = split(scan(path))
    write_split(tmp_path / "split.csv", parts)
    again = scan(tmp_path / "split.csv", root=path)
    assert {(s.path, s.part, s.sha256) for s in again.samples} == {
        (s.path, s.part, s.sha256) for s in parts.dataset.samples
    }
    pixels = load_pixels(again, Preprocessing(16), Cache(tmp_path / "store"))
    assert pixels.shape == (20, 16, 16, 3)


def test_an_archive_is_its_own_root_and_a_root_exists(tmp_path, packed):
    path = packed("x.zip", *NAMES)
    with pytest.raises(UsageError, match=r"x\.zip is not a manifest and is its own root; root=.* is for manifests"):
        scan(path, root=tmp_path)
    (tmp_path / "m.csv").write_text("path,label\ncat/1.png,cat\ndog/1.png,dog\n")
    with pytest.raises(UsageError, match=r"nowhere does not exist\. Expected a folder"):
        scan(tmp_path / "m.csv", root=tmp_path / "nowhere")
    assert len(scan(tmp_path / "m.csv", root=path)) == 2

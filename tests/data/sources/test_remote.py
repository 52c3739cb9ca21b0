from __future__ import annotations

import base64
import hashlib
import importlib
import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regraft.cache import Cache
from regraft.data import storage as storage_module
from regraft.data.decode import decode_image
from regraft.data.scan import scan
from regraft.data.sources import remote as remote_module
from regraft.data.sources.remote import RemoteFolder, fetch
from regraft.data.split import split
from regraft.data.split_file import write_split
from regraft.errors import DataError, ImageError, MissingExtraError, UsageError

Encoded = Callable[[str], bytes]
NAMES = ("cat/1.png", "cat/2.png", "dog/1.png", "dog/deep/2.png")
fsspec = importlib.import_module("fsspec")


@pytest.fixture
def memory(png: Encoded) -> Iterator[Callable[..., None]]:
    """Write files at `memory://`: images by their names, others by their contents."""
    files = fsspec.filesystem("memory")

    def write(*names: str, **contents: str | bytes) -> None:
        for name in names:
            files.pipe_file(f"/{name}", png(name.partition("/")[2]))
        for name, content in contents.items():
            files.pipe_file(f"/{name}", content.encode() if isinstance(content, str) else content)

    yield write
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def labels_of(path: Path | str, **options: Any) -> dict[str, str]:
    return {sample.path: sample.label for sample in scan(path, **options).samples}


def test_a_remote_folder_is_read_like_a_local_one(memory, tmp_path, png):
    memory(*(f"data/{name}" for name in NAMES), **{"data/.hidden.png": b"x", "data/cat/notes.txt": "no image"})
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(name))
    (tmp_path / "cat/notes.txt").touch()
    local = scan(tmp_path)
    for url in ("memory://data", "memory://data/", " memory:///data"):
        dataset = scan(url)
        assert dataset.samples == local.samples
        assert (dataset.classes, dataset.ignored, dataset.notes) == (local.classes, local.ignored, local.notes)
    assert scan("memory://data").root == "memory://data"
    assert repr(dataset).startswith("Dataset('memory:///data', 4 images")
    for sample in dataset.samples:
        assert np.array_equal(decode_image(dataset.source(sample)), decode_image(png(sample.path)))
    files = scan(f"file://{tmp_path}")
    assert (files.samples, files.root) == (local.samples, f"file://{tmp_path}")


def test_the_top_of_a_remote_storage(memory):
    memory("cat/1.png", "dog/1.png")
    assert labels_of("memory://") == {"cat/1.png": "cat", "dog/1.png": "dog"}


def test_parts_and_metadata_in_remote_folders(memory):
    memory(*(f"data/{part}/{label}/1.png" for part in ("train", "val") for label in ("cat", "dog")))
    assert {(s.path, s.part) for s in scan("memory://data").samples} == {
        (f"{part}/{label}/1.png", part) for part in ("train", "val") for label in ("cat", "dog")
    }
    memory("flat/a.png", "flat/b.png", **{"flat/metadata.csv": "file_name,label\na.png,cat\nb.png,dog\n"})
    assert labels_of("memory://flat") == {"a.png": "cat", "b.png": "dog"}


def test_a_remote_manifest(memory):
    memory("data/x/1.png", "data/x/2.png", **{"data/m.csv": "path,label\n x/1.png ,cat\nx/2.png,dog\n../y.png,dog\n"})
    dataset = scan("memory://data/m.csv")
    assert {s.path: s.label for s in dataset.samples} == {"x/1.png": "cat", "x/2.png": "dog"}
    assert dataset.root == "memory://data"
    assert [(b.path, b.reason) for b in dataset.bad] == [("../y.png", "../y.png leads out of memory://data")]


def test_a_remote_parquet_manifest(memory):
    pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"path": ["1.png", "2.png"], "label": ["cat", "dog"]}), file)
    memory("data/1.png", "data/2.png", **{"data/m.parquet": file.getvalue()})
    assert labels_of("memory://data/m.parquet") == {"1.png": "cat", "2.png": "dog"}


def test_a_manifest_here_of_images_there(memory, tmp_path):
    memory(*(f"data/{label}/{i}.png" for label in ("cat", "dog") for i in range(10)))
    parts = split(scan("memory://data"))
    write_split(tmp_path / "split.csv", parts)
    again = scan(tmp_path / "split.csv", root=parts.dataset.root)
    assert {(s.path, s.part) for s in again.samples} == {(s.path, s.part) for s in parts.dataset.samples}
    assert again.root == "memory://data"


def test_a_second_scan_reads_no_image(memory, tmp_path, monkeypatch):
    monkeypatch.setattr(storage_module, "SETTLED", 0.0)
    monkeypatch.setattr(remote_module, "SETTLED", 0.0)
    memory(*(f"data/{name}" for name in NAMES))
    read: list[str] = []
    original = RemoteFolder.read

    def counted(self: RemoteFolder, name: str) -> bytes:
        read.append(name)
        return original(self, name)

    monkeypatch.setattr(RemoteFolder, "source", counted)
    first = scan("memory://data", cache=Cache(tmp_path))
    assert sorted(read) == sorted(NAMES)
    read.clear()
    assert scan("memory://data", cache=Cache(tmp_path)) == first
    assert read == []
    memory("data/dog/9.png")
    fsspec.filesystem("memory").pipe_file("/data/cat/1.png", fsspec.filesystem("memory").cat_file("/data/cat/2.png"))
    assert len(scan("memory://data", cache=Cache(tmp_path))) == 5
    assert sorted(read) == ["cat/1.png", "dog/9.png"]


def test_what_a_listing_says_of_a_file(memory):
    memory("data/a.png")
    folder = RemoteFolder("memory://data")
    assert folder.stamp("a.png") is None  # too new
    old = datetime.now(UTC) - timedelta(minutes=1)
    stamps = []
    for info in ({"ETag": "x"}, {"ETag": "y"}, {"etag": "x", "mtime": 1}, {"mtime": old}, {"LastModified": 7.0}):
        folder._listed = {"a.png": {"size": 3, **info}}
        stamps.append(folder.stamp("a.png"))
    assert None not in stamps
    assert stamps[0] == stamps[2] != stamps[1]
    for info in ({}, {"mtime": datetime.now(UTC)}, {"updated": "yesterday"}):
        folder._listed = {"a.png": {"size": 3, **info}}
        assert folder.stamp("a.png") is None


def test_files_that_cannot_be_read(memory, monkeypatch):
    memory(*(f"data/{name}" for name in NAMES))
    files = type(fsspec.filesystem("memory"))
    original = files.cat_file

    def cat_file(self: Any, path: str, **options: Any) -> bytes:
        if path.endswith("cat/2.png"):
            raise RuntimeError("403 for https://me:pa55@store/cat/2.png?X-Amz-Signature=abc")
        if path.endswith("deep/2.png"):
            raise FileNotFoundError(path)
        return original(self, path, **options)

    monkeypatch.setattr(files, "cat_file", cat_file)
    dataset = scan("memory://data")
    assert {b.path: b.reason for b in dataset.bad} == {
        "cat/2.png": "403 for https://store/cat/2.png",
        "dog/deep/2.png": "no such file or directory",
    }


def test_files_above_the_limit_are_not_read(memory, monkeypatch):
    memory(*(f"data/{name}" for name in NAMES), **{"data/cat/big.png": bytes(3000)})
    monkeypatch.setattr(remote_module, "FILE_LIMIT", 2000)
    reason = "more than the 2,000 bytes that are allowed"
    assert [(b.path, b.reason) for b in scan("memory://data").bad] == [("cat/big.png", reason)]
    with pytest.raises(OSError, match=reason):
        fetch("memory://data/cat/big.png")


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("memory://nowhere", UsageError, r"memory://nowhere does not exist or is empty"),
        ("nope://u:secret@x/y", UsageError, r"nope://x/y cannot be read: Protocol not known: nope"),
        (
            "https://u:secret@h/photos",
            UsageError,
            r"https://h/photos: a web server cannot list files\. Expected the URL",
        ),
        (
            "memory://data.zip",
            UsageError,
            r"memory://data\.zip: archives are not read over a network\. Expected the URL",
        ),
        ("memory://m.csv", DataError, r"memory://m\.csv cannot be read: .*[Nn]o such file"),
    ],
)
def test_urls_that_cannot_be_read(memory, url, error, message):
    with pytest.raises(error, match=message) as caught:
        scan(url)
    assert "secret" not in str(caught.value)


def test_a_protocol_whose_package_is_missing_is_named(monkeypatch):
    core = importlib.import_module("fsspec.core")

    def refuse(url: str) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(core, "url_to_fs", refuse)
    with pytest.raises(UsageError, match=r"s3://bucket/x cannot be read: Install s3fs to access S3\."):
        scan("s3://key@bucket/x")


def test_a_storage_that_refuses_is_a_data_error_without_credentials(memory, monkeypatch):
    files = type(fsspec.filesystem("memory"))

    def refuse(self: Any, path: str, **options: Any) -> Any:
        raise PermissionError("Access denied for memory://me:secret@data")

    monkeypatch.setattr(files, "find", refuse)
    with pytest.raises(DataError, match=r"cannot be listed: Access denied for memory://data\. Expected a") as caught:
        scan("memory://me:secret@data")
    assert "secret" not in str(caught.value)


def test_without_fsspec_the_error_says_how_to_install_it(monkeypatch):
    real = importlib.import_module

    def refuse(name: str, package: str | None = None) -> object:
        if name.startswith("fsspec"):
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(MissingExtraError, match=r"Reading s3://bucket needs the extra 'remote'. Install it with"):
        scan("s3://key:secret@bucket")


def test_a_manifest_on_a_web_server(server, png):
    server.files = {f"/d/{name}": png(name) for name in ("a b.png", "ä.png")}
    server.files["/d/m.csv"] = f"path,label\na b.png,cat\nä.png,dog\n{server.url}/d/ä.png?v=2,dog\n".encode()
    dataset = scan(f"{server.url}/d/m.csv?token=secret")
    assert [(s.path, s.label) for s in dataset.samples] == [
        ("a b.png", "cat"),
        (f"{server.url}/d/ä.png?v=2", "dog"),
        ("ä.png", "dog"),
    ]
    assert dataset.root == f"{server.url}/d"
    assert dataset.samples[0].sha256 == hashlib.sha256(png("a b.png")).hexdigest()
    assert server.asked[0] == ("/d/m.csv?token=secret", None)
    assert "secret" not in repr(dataset)


def test_urls_in_a_local_manifest_are_fetched_only_where_it_is_asked_for(server, tmp_path, png):
    server.files = {"/1.png": png("1")}
    (tmp_path / "2.png").write_bytes(png("2"))
    (tmp_path / "m.csv").write_text(
        f"path,label\nhttp://me:secret@{server.host}/1.png,cat\n2.png,dog\n{server.url}/lost.png?sig=secret,dog\n"
    )
    with pytest.raises(UsageError, match=r"names 2 images elsewhere by URL, such as http://127.*remote=True") as caught:
        scan(tmp_path / "m.csv")
    assert server.asked == []
    assert "secret" not in str(caught.value)
    dataset = scan(tmp_path / "m.csv", remote=True)
    assert [(s.path, s.label) for s in dataset.samples] == [("2.png", "dog"), (f"{server.url}/1.png", "cat")]
    assert [(b.path, b.reason) for b in dataset.bad] == [(f"{server.url}/lost.png", "HTTP status 404: Not Found")]
    assert ("/1.png", "Basic " + base64.b64encode(b"me:secret").decode()) in server.asked
    for sample in dataset.samples:
        assert decode_image(dataset.source(sample)).shape == (9, 8, 3)
    server.files.clear()
    with pytest.raises(ImageError, match=r"/1\.png: HTTP status 404"):
        dataset.source(dataset.samples[1])


def test_images_elsewhere_in_a_remote_manifest_need_asking_too(server, memory, png):
    server.files = {"/1.png": png("1")}
    text = f"path,label\n{server.url}/1.png,cat\n2.png,dog\nmemory://data/x/3.png,dog\n"
    memory("data/2.png", "data/x/3.png", **{"data/m.csv": text})
    with pytest.raises(UsageError, match=r"names 1 image elsewhere by URL, such as http:"):
        scan("memory://data/m.csv")
    assert server.asked == []
    assert set(labels_of("memory://data/m.csv", remote=True)) == {
        f"{server.url}/1.png",
        "2.png",
        "memory://data/x/3.png",
    }


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "local:///x.png", "zip://1.png::/tmp/x.zip", "filecache::https://h/1"]
)
def test_a_manifest_on_a_server_names_no_file_of_this_machine(server, memory, url):
    text = f"path,label\n{url},cat\n2.png,dog\n"
    server.files = {"/m.csv": text.encode()}
    memory("data/2.png", **{"data/m.csv": text})
    for manifest in (f"{server.url}/m.csv", "memory://data/m.csv"):
        with pytest.raises(DataError, match="is on a server and names files of this machine"):
            scan(manifest, remote=True)


def test_urls_that_differ_in_a_credential_alone(tmp_path):
    (tmp_path / "m.csv").write_text("path,label\nhttps://h/a?token=1,cat\nhttps://h/a?token=2,dog\n")
    with pytest.raises(DataError, match="differ only in their credentials"):
        scan(tmp_path / "m.csv", remote=True)

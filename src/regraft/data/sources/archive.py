"""Read images directly from a zip or tar archive, without extracting its members to files.

A compressed tar, which can only be read from start to end, is decompressed to one temporary file.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from regraft.data.dataset import BadFile
from regraft.data.sources.spool import Spool
from regraft.data.storage import FILE_LIMIT, Directory, Listing, TruncatedFileError, is_junk, missing, stamp_of
from regraft.errors import DataError
from regraft.text import encodable

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
SUFFIXES = (".zip", *TAR_SUFFIXES)

_CHUNK = 2**20
#: First bytes of a compressed tar, and the function that opens it.
_OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
#: Compression methods of the zip format that are in use but not supported.
_UNSUPPORTED = {9: "Deflate64", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd", 99: "AES"}
#: Types of tar headers that describe the next member.
_EXTENDED_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_UTF8, _ENCRYPTED, _FROM_DOS = 0x800, 0x1, 0
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_LINK = "a link; links in an archive are not followed"
#: Exceptions of malicious or truncated bytes.
_FAULTS = (OSError, EOFError, ValueError, NotImplementedError, struct.error, zlib.error, lzma.LZMAError)


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive: sizes in bytes, and why it cannot be read, if it cannot.

    `offset` is the position of the local header in a zip, of the first byte in a tar, which has no `method` and
    `checksum` (CRC-32). `size` is the declared uncompressed size.
    """

    offset: int
    size: int
    compressed: int
    method: int | None = None
    checksum: int = 0
    fault: str = ""


class Archive:
    """An archive on disk. Of several members with one name, the last one counts.

    `bad` has the members that are not files or have an unsafe name. Raises `DataError` if the file is damaged or no
    archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._members: dict[str, Member] = {}
        self._folders: set[str] = set()
        bad: dict[str, str] = {}
        self._spool: Spool | None = None
        try:
            self._stat = os.stat(path)
            is_zip = path.suffix.lower() == ".zip"
            if not is_zip:
                self._spool = _decompress(path)
            self._file = self._spool.path if self._spool else path
            self._file_stat = os.stat(self._file)
            entries = _zip_entries(path) if is_zip else _tar_entries(self._file)
            for raw, entry in entries:
                name = "/".join(part for part in raw.split("/") if part not in ("", "."))
                fault = _unsafe(raw)
                if not name or _is_junk(name) or (fault and entry is None):
                    continue
                if entry is None:
                    self._folders.add(name)
                elif fault or isinstance(entry, str):
                    bad[encodable(raw)] = fault or str(entry)
                else:
                    self._members[name] = entry
        except (*_FAULTS, tarfile.TarError, zipfile.BadZipFile) as error:
            reason = getattr(error, "strerror", None) or error or type(error).__name__
            raise DataError(f"{path} cannot be read as an archive: {reason}. Download or pack it again.") from error
        self.bad = tuple(BadFile(name, reason) for name, reason in sorted(bad.items()))

    @property
    def top(self) -> Directory:
        """Root directory."""
        return Listing.of(self._members, self._folders)

    def exists(self, name: str) -> bool:
        """Whether there is a member of this name."""
        return name in self._members

    def read(self, name: str) -> bytes:
        """All bytes of a member.

        Raises `OSError` if it is missing, encrypted, too large or damaged, or if the archive has changed.
        """
        member = self._member(name)
        if member.fault:
            raise OSError(member.fault)
        with self._file.open("rb") as file:
            if _identity(os.fstat(file.fileno())) != _identity(self._file_stat):
                raise OSError("the archive has changed since it was opened")
            file.seek(member.offset)
            if member.method is not None:
                _skip_header(file)
            data = file.read(member.compressed)
        if len(data) < member.compressed:
            raise TruncatedFileError("truncated: the archive ends inside this file")
        return data if member.method is None else _decompress_member(data, member)

    source = read

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """Stamp of the archive with offset, size and checksum of the member; None if the archive is new."""
        member, stamp = self._member(name), stamp_of(os.stat(self.path))
        return None if stamp is None else (*stamp, member.offset, member.size, member.checksum)

    def _member(self, name: str) -> Member:
        if name not in self._members:
            raise missing(name)
        return self._members[name]


def is_archive(path: Path | str) -> bool:
    """Whether a file is an archive by its extension."""
    return str(path).lower().endswith(SUFFIXES)


def is_tar(path: Path | str) -> bool:
    """Whether a file is a tar archive by its extension."""
    return str(path).lower().endswith(TAR_SUFFIXES)


def _zip_entries(path: Path) -> Iterator[tuple[str, Member | str | None]]:
    """Name of each entry with its member, the reason why it is not a file, or None for a folder."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename
            if not info.flag_bits & _UTF8:  # macOS writes UTF-8 without setting the flag
                with suppress(UnicodeError):
                    name = name.encode("cp437").decode()
            if info.create_system == _FROM_DOS:
                name = name.replace("\\", "/")
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or name.endswith("/"):
                yield name, None
            elif kind == stat.S_IFLNK:
                yield name, _LINK
            else:
                method, fault = info.compress_type, _too_large(max(info.file_size, info.compress_size))
                if info.flag_bits & _ENCRYPTED:
                    fault = "encrypted: pack the archive again without a password"
                elif method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
                    title = _UNSUPPORTED.get(method, f"method {method}")
                    fault = f"compressed with {title}, which is not supported: pack the archive again with Deflate"
                sizes = info.file_size, info.compress_size
                yield name, Member(info.header_offset, *sizes, method, info.CRC, fault)


def _tar_entries(path: Path) -> Iterator[tuple[str, Member | str | None]]:
    with tarfile.open(path, "r:", encoding="utf-8", tarinfo=_Header) as archive:
        before = -1
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # otherwise all of them stay in memory
            if archive.offset <= before:
                raise tarfile.ReadError(f"damaged at byte {before:,}")
            before = archive.offset
            if info.isdir():
                yield info.name, None
            elif info.issparse():
                yield info.name, "a sparse file, which is not supported"
            elif info.isreg():
                yield info.name, Member(info.offset_data, info.size, info.size, fault=_too_large(info.size))
            else:
                yield info.name, _LINK if info.issym() or info.islnk() else "a device or pipe, not an image file"
        end = archive.offset
    with path.open("rb") as file:  # to tarfile a damaged header looks like the end
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"damaged at byte {end:,}")


class _Header(tarfile.TarInfo):
    """A tar header of limited size, because tarfile reads all of it into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if (
            info.size < 0
            or (info.type in _EXTENDED_HEADERS and info.size > _CHUNK)
            or info.type == tarfile.GNUTYPE_SPARSE
        ):
            raise tarfile.ReadError(f"the header of {encodable(info.name)!r} is damaged, or that of a sparse file")
        return info


def _decompress(path: Path) -> Spool | None:
    """A temporary uncompressed copy of a tar; None if it is not compressed."""
    with path.open("rb") as file:
        start = file.read(6)
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
    if opener is None:
        return None
    with opener(path, "rb") as file:
        chunks = iter(lambda: file.read(_CHUNK), b"")
        return Spool(chunks, str(path), "Unpack it and name the folder, or pack it as .zip.")


def _skip_header(file: IO[bytes]) -> None:
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
        raise OSError("damaged: the archive has no file at the position in its directory")
    _, name, extra = _LOCAL_HEADER.unpack(header)
    file.seek(name + extra, io.SEEK_CUR)


def _decompress_member(data: bytes, member: Member) -> bytes:
    """Decompress a member of a zip, to exactly its declared size."""
    try:
        if member.method == zipfile.ZIP_DEFLATED:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.size + 1)
        elif member.method == zipfile.ZIP_BZIP2:
            data = bz2.BZ2Decompressor().decompress(data, member.size + 1)
    except (OSError, zlib.error) as error:
        raise OSError(f"damaged: {error}") from error
    if len(data) > member.size:
        raise OSError(f"larger than the {member.size:,} bytes that the archive declares")
    if len(data) < member.size or zlib.crc32(data) != member.checksum:
        raise OSError("damaged: its checksum differs")
    return data


def _too_large(size: int) -> str:
    return f"{size:,} bytes uncompressed, more than {FILE_LIMIT:,} allowed" if size > FILE_LIMIT else ""


def _unsafe(name: str) -> str:
    """Why a name is unsafe; empty if it is safe."""
    if name.startswith("/") or re.match(r"[A-Za-z]:[/\\]", name):
        return "an absolute path; expected a path inside the archive"
    if ".." in name.split("/"):
        return "its path leads out of the archive (..)"
    return "" if name == encodable(name) else "its name is not UTF-8"


def _is_junk(name: str) -> bool:
    *folders, file = name.split("/")
    return any(is_junk(folder, folder=True) and folder != ".." for folder in folders) or (
        is_junk(file, folder=False) and file != ".."
    )


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev

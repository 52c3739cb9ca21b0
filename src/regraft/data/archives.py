"""Images in a zip or tar archive, read where they are.

Enters: a `.zip`, `.tar`, `.tar.gz`, `.tar.bz2` or `.tar.xz`. Leaves: a `Storage`. No member is ever written under its
name; of a compressed tar, which can only be read from its beginning, one nameless copy is unpacked.
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
from regraft.data.decode import ImageSource
from regraft.data.spool import Spool
from regraft.data.storage import FILE_LIMIT, Directory, Listing, is_junk, missing, stamp_of
from regraft.errors import DataError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
SUFFIXES = (".zip", *TAR_SUFFIXES)

_PIECE = 2**20
#: What a compressed tar begins with, and what reads it.
_PACKED: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
#: Names of the zip format's ways to compress, of those that are met and not read.
_UNREAD = {9: "Deflate64", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd", 99: "AES"}
#: Types of a tar's headers that say more about the member that follows.
_DESCRIBING = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_UTF8, _ENCRYPTED, _FROM_DOS = 0x800, 0x1, 0
_LOCAL = struct.Struct("<4s22xHH")


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Attributes:
        offset: Where it begins: a zip's local header, or the bytes themselves.
        size: Bytes unpacked, as declared.
        packed: Bytes in the archive.
        method: The zip format's number of its compression; None: a tar's, plain.
        checksum: CRC-32, of a zip's.
        fault: Why it is not read, or nothing.
    """

    offset: int
    size: int
    packed: int
    method: int | None = None
    checksum: int = 0
    fault: str = ""


class Archive:
    """An archive on disk; of members of one name the last counts.

    Args:
        path: Of the archive.

    Raises:
        DataError: It is damaged, or no archive.
    """

    def __init__(self, path: Path) -> None:
        """Read what it holds."""
        self.path = path
        self._members: dict[str, Member] = {}
        self._folders: set[str] = set()
        bad: dict[str, str] = {}
        self._spool: Spool | None = None
        try:
            self._stat = os.stat(path)
            is_zip = path.suffix.lower() == ".zip"
            if not is_zip:
                self._spool = _unpacked(path)
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
                    bad[_printable(raw)] = fault or str(entry)
                else:
                    self._members[name] = entry
        except (*_FAULTS, tarfile.TarError, zipfile.BadZipFile) as error:
            why = getattr(error, "strerror", None) or error or type(error).__name__
            raise DataError(
                f"{path} cannot be read as an archive: {why}. "
                f"Expected {', '.join(SUFFIXES)}, whole: fetch it again, or pack it again."
            ) from error
        #: What is no file, or has a name that no file may have.
        self.bad = tuple(BadFile(name, reason) for name, reason in sorted(bad.items()))

    @property
    def top(self) -> Directory:
        """Its root."""
        return Listing.of(self._members, self._folders)

    def exists(self, name: str) -> bool:
        """Whether there is a member of this name."""
        return name in self._members

    def read(self, name: str) -> bytes:
        """All bytes of a member.

        Raises:
            OSError: There is none, it is encrypted, too large or damaged, or the archive has changed.
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
            data = file.read(member.packed)
        if len(data) < member.packed:
            raise OSError("cut off: the archive ends within it")
        return data if member.method is None else _expanded(data, member)

    def source(self, name: str) -> ImageSource:
        """Its bytes."""
        return self.read(name)

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """Of the archive, with the place, size and checksum of the member; None if the archive is quite new."""
        member, stamp = self._member(name), stamp_of(os.stat(self.path))
        return None if stamp is None else (*stamp, member.offset, member.size, member.checksum)

    def _member(self, name: str) -> Member:
        if name not in self._members:
            raise missing(name)
        return self._members[name]


#: What reading hostile or cut off bytes raises.
_FAULTS = (OSError, EOFError, ValueError, NotImplementedError, struct.error, zlib.error, lzma.LZMAError)


def is_archive(path: Path | str) -> bool:
    """Whether a file is taken for an archive, by its ending."""
    return str(path).lower().endswith(SUFFIXES)


def is_tar(path: Path | str) -> bool:
    """Whether a file is taken for a tar archive, by its ending."""
    return str(path).lower().endswith(TAR_SUFFIXES)


def _zip_entries(path: Path) -> Iterator[tuple[str, Member | str | None]]:
    """Name and member, or why it is none; None: a folder."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename
            if not info.flag_bits & _UTF8:  # macOS writes UTF-8 without saying so
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
                method, fault = info.compress_type, ""
                if info.flag_bits & _ENCRYPTED:
                    fault = "encrypted: pack the archive again without a password"
                elif method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
                    way = _UNREAD.get(method, f"method {method}")
                    fault = f"compressed with {way}, which is not read: pack the archive again with Deflate"
                size = max(info.file_size, info.compress_size)
                yield (
                    name,
                    Member(
                        info.header_offset,
                        info.file_size,
                        info.compress_size,
                        method,
                        info.CRC,
                        fault or _too_large(size),
                    ),
                )


def _tar_entries(path: Path) -> Iterator[tuple[str, Member | str | None]]:
    """Name and member, or why it is none; None: a folder."""
    with tarfile.open(path, "r:", encoding="utf-8", tarinfo=_Header) as archive:
        before = -1
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # else all of them stay in memory
            if archive.offset <= before:
                raise tarfile.ReadError(f"damaged at byte {before:,}")
            before = archive.offset
            if info.isdir():
                yield info.name, None
            elif info.issparse():
                yield info.name, "a sparse file, which is not read"
            elif info.isreg():
                yield info.name, Member(info.offset_data, info.size, info.size, fault=_too_large(info.size))
            else:
                yield info.name, _LINK if info.issym() or info.islnk() else "a device or pipe, which holds no image"
        end = archive.offset
    with path.open("rb") as file:  # a damaged header looks like the end to the library
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"damaged at byte {end:,}")


class _Header(tarfile.TarInfo):
    """A tar's header that may not claim more than a header needs: the library reads all of it into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (info.type in _DESCRIBING and info.size > _PIECE) or info.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError(f"the header of {_printable(info.name)!r} is damaged, or of a sparse file")
        return info


def _unpacked(path: Path) -> Spool | None:
    """A tar's plain copy; None if it is plain."""
    with path.open("rb") as file:
        start = file.read(6)
    opening = next((opening for magic, opening in _PACKED.items() if start.startswith(magic)), None)
    if opening is None:
        return None
    with opening(path, "rb") as file:
        pieces = iter(lambda: file.read(_PIECE), b"")
        return Spool(pieces, str(path), "Unpack it and name the folder, or pack it as .zip.")


def _skip_header(file: IO[bytes]) -> None:
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size or not header.startswith(b"PK\3\4"):
        raise OSError("damaged: the archive has no such file where it says")
    _, name, extra = _LOCAL.unpack(header)
    file.seek(name + extra, io.SEEK_CUR)


def _expanded(data: bytes, member: Member) -> bytes:
    """A zip's member, of exactly the size that it declares."""
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


_LINK = "a link; links in an archive are not followed"


def _too_large(size: int) -> str:
    return f"{size:,} bytes unpacked, more than {FILE_LIMIT:,} allowed" if size > FILE_LIMIT else ""


def _unsafe(name: str) -> str:
    """Why no file may have this name, or nothing."""
    if name.startswith("/") or re.match(r"[A-Za-z]:[/\\]", name):
        return "an absolute path; expected one within the archive"
    if ".." in name.split("/"):
        return "its path leads out of the archive (..)"
    return "" if name == _printable(name) else "its name is not UTF-8"


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _is_junk(name: str) -> bool:
    *folders, file = name.split("/")
    return any(is_junk(folder, folder=True) and folder != ".." for folder in folders) or (
        is_junk(file, folder=False) and file != ".."
    )


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev

"""Extracts archives from strangers: files and folders inside the target, nothing else."""

from __future__ import annotations

import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from tqdm import tqdm

from gta.errors import InputError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
"""Names of archives; any other file is copied as it is."""
MAX_MEMBERS = 1_000_000
"""The largest of the known data sets has 41,000 files; a million empty ones already fill a disk's inodes."""
MAX_BYTES = 64 << 30
"""The largest of them has 3 GB."""
MAX_RATIO = 200
"""Extracted over packed size. Photographs have 1, folders of XML files up to 30, a bomb has 1,000."""
SMALL = 16 << 20
"""Bytes that any archive may extract to: a tiny one of empty masks has a large ratio and does no harm."""
LONGEST_PATH, LONGEST_NAME = 1024, 255
"""Bytes of a member's path and of each part of it; a file system takes some more of the first."""

Member = tuple[str, int, IO[bytes] | None]
"""Name, size in bytes, and content; None for a folder."""


class _MemberError(Exception):
    """Why an archive is refused."""


def extract(archive: Path, folder: Path) -> None:
    """Extracts `archive` into the existing `folder`; copies it there if its name is not an archive's.

    Permissions, owners and times in the archive are ignored. Files that are there already are never
    overwritten.

    Raises InputError, naming the archive and the fault, where it is damaged or cut short, where a member
    is no plain file or folder or would lie outside `folder`, and where it is too large. What was
    extracted before the fault stays: extract into a folder that is thrown away on errors.
    """
    if not archive.name.endswith(SUFFIXES):
        shutil.copyfile(archive, folder / archive.name)
        return
    size = archive.stat().st_size
    limit = min(MAX_BYTES, max(SMALL, MAX_RATIO * size))
    count = total = 0
    try:
        with (
            archive.open("rb") as file,
            tqdm(total=size, unit="B", unit_scale=True, desc=archive.name, disable=None) as bar,
        ):
            for count, (name, length, content) in enumerate(_members(file), start=1):
                if length < 0:
                    raise _MemberError(f"{name!r} has a negative size")
                total += length
                if count > MAX_MEMBERS:
                    raise _MemberError(f"more than {MAX_MEMBERS} members")
                if total > limit:
                    raise _MemberError(f"expected at most {limit} bytes inside {size}, got more at {name!r}")
                _write(folder / _safe(name), content, length)
                bar.update(file.tell() - bar.n)
        if count == 0:
            raise _MemberError("nothing is inside")
    except (_MemberError, tarfile.FilterError) as error:
        raise InputError(f"{archive}: {error}") from None
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        gzip.BadGzipFile,
        NotImplementedError,
        UnicodeDecodeError,
    ) as error:
        raise InputError(f"{archive}: damaged or cut short: {error}") from None
    except OSError as error:  # of the disk; bz2's faults of the data have no number
        if error.errno is not None:
            raise
        raise InputError(f"{archive}: damaged or cut short: {error}") from None


def _members(file: BinaryIO) -> Iterator[Member]:
    """The members in order; each one's content has to be read before the next is asked for."""
    start = file.read(4)
    file.seek(0)
    if start == b"PK\x03\x04":
        yield from _zip_members(file)
    elif start[:2] == b"\x1f\x8b":
        with gzip.open(file) as unpacked:
            yield from _tar_members(unpacked)
    else:
        yield from _tar_members(file)


def _tar_members(file: IO[bytes] | gzip.GzipFile) -> Iterator[Member]:
    try:
        tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - closed below; only opening says "no archive"
    except tarfile.ReadError as error:
        raise _MemberError(f"not an archive (tar, tar.gz, zip), or damaged at its start: {error}") from None
    with tar:
        for member in tar:
            if not (member.isfile() or member.isdir()):
                kind = "a link" if member.islnk() or member.issym() else "a device"
                raise _MemberError(f"{member.name!r} is {kind}; expected files and folders only")
            tarfile.data_filter(member, "/nowhere")  # the library's own view of what is dangerous
            yield member.name, member.size, tar.extractfile(member)
        # tarfile takes a broken header for the end; the end is zeros. Reading on also brings the gzip
        # checksum, which stands last.
        file.seek(tar.offset)
        rest = iter(lambda: file.read(1 << 20), b"")
        if any(next(rest, b"?")) or any(map(any, rest)):
            raise _MemberError(f"damaged or cut short: no member and no end at byte {tar.offset} of the tar")


def _zip_members(file: BinaryIO) -> Iterator[Member]:
    with zipfile.ZipFile(file) as packed:
        for info in packed.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _MemberError(
                    f"{info.filename!r} is a link or a device; expected files and folders only"
                )
            if info.flag_bits & 1:
                raise _MemberError(f"{info.filename!r} is encrypted")
            if info.is_dir():
                yield info.filename, 0, None
            else:
                with packed.open(info) as content:
                    yield info.filename, info.file_size, content


def _safe(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise _MemberError(f"{name!r} would lie outside the folder")
    if not name.isprintable():
        raise _MemberError(f"the name {name!r} has characters that cannot be printed")
    if len(name.encode()) > LONGEST_PATH or any(len(part.encode()) > LONGEST_NAME for part in path.parts):
        raise _MemberError(f"the name that starts with {name[:40]!r} is too long")
    return path


def _write(target: Path, content: IO[bytes] | None, length: int) -> None:
    try:
        if content is None:
            target.mkdir(parents=True, exist_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            shutil.copyfileobj(content, file)
            if file.tell() != length:
                raise _MemberError(
                    f"cut short: expected {length} bytes of {target.name!r}, got {file.tell()}"
                )
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise _MemberError(f"{target.name!r} is there twice") from None

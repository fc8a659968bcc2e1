"""gta.archives against damaged and malicious archives."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from gta import archives
from gta.archives import extract
from gta.errors import InputError

FILES = {"birds/a.txt": b"a" * 700, "birds/sub/b.txt": b"b", "c.txt": b"", "birds/d.txt": bytes(512)}


def tar_of(*members: tuple[tarfile.TarInfo | str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(*members: tuple[zipfile.ZipInfo | str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for member, content in members:
            packed.writestr(member, content)
    return buffer.getvalue()


def special(kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo("birds/x")
    info.type, info.linkname = kind, target
    return info, b""


def zip_link(name: str) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, b"/etc/passwd"


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def encrypted(data: bytes) -> bytes:
    flags = data.index(b"PK\x01\x02") + 8  # of the first member, in the directory at the end
    return data[:flags] + b"\x01" + data[flags + 1 :]


def claiming(size: int) -> bytes:
    """A tar whose only member says that it has `size` bytes."""
    info = tarfile.TarInfo("x")
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT) + b"a" * 512 + bytes(1024)


def pax(**headers: str) -> bytes:
    """A tar whose extended header says something else than the plain one."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("birds/x")
        info.pax_headers, info.size = headers, 1
        tar.addfile(info, io.BytesIO(b"1"))
    return buffer.getvalue()


def packed_by(method: int) -> bytes:
    """A zip of an unusual method, damaged in the data of its only member."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as packed:
        packed.writestr("x", bytes(range(256)) * 40)
    data = buffer.getvalue()
    return data[:41] + bytes(8) + data[49:]


def not_utf8(data: bytes) -> bytes:
    """A zip that says its names are UTF-8, and has another one in place of QQQ."""
    for signature, flags in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
        at = data.index(signature) + flags
        data = data[:at] + bytes([data[at] | 8]) + data[at + 1 :]
    return data.replace(b"QQQ", b"\xff\xfe\xfd")


TAR, ZIP = tar_of(*FILES.items()), zip_of(*FILES.items())
TGZ = gzip.compress(TAR)


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.tar", TAR), ("a.tar.gz", TGZ), ("a.tgz", TGZ), ("a.zip", ZIP), ("a.tgz", TAR), ("a.zip", TGZ)],
)
def test_extracts_what_is_inside_whatever_the_suffix_says(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    folder = tmp_path / "out"
    folder.mkdir()
    extract(tmp_path / name, folder)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert {key: path.read_bytes() for key, path in files.items()} == FILES
    assert not any(path.stat().st_mode & 0o111 for path in files.values())


def test_folders_and_dots(tmp_path: Path) -> None:
    folder_info = tarfile.TarInfo("./birds")
    folder_info.type = tarfile.DIRTYPE
    (tmp_path / "a.tar").write_bytes(tar_of((folder_info, b""), ("./birds/a", b"1"), (folder_info, b"")))
    (tmp_path / "a.zip").write_bytes(zip_of(("cars/", b""), ("cars/a", b"1")))
    extract(tmp_path / "a.tar", tmp_path)
    extract(tmp_path / "a.zip", tmp_path)
    assert (tmp_path / "birds" / "a").read_bytes() == (tmp_path / "cars" / "a").read_bytes() == b"1"


def test_other_files_are_copied(tmp_path: Path) -> None:
    (tmp_path / "labels.mat").write_bytes(b"MATLAB")
    (tmp_path / "out").mkdir()
    extract(tmp_path / "labels.mat", tmp_path / "out")
    assert (tmp_path / "out" / "labels.mat").read_bytes() == b"MATLAB"


OUTSIDE = "/tmp/outside-of-gta"
"""Where nothing else writes."""
BAD: dict[str, tuple[str, bytes, str]] = {
    "empty file": ("a.tgz", b"", "not an archive"),
    "HTML page": ("a.tgz", b"<html>moved</html>" * 50, "not an archive"),
    "no members": ("a.tar", bytes(10240), "nothing is inside"),
    "tar.gz cut in the data": ("a.tgz", TGZ[: len(TGZ) // 2], "damaged or cut short"),
    "tar.gz without its last byte": ("a.tgz", TGZ[:-1], "damaged or cut short"),
    "tar.gz with a flipped checksum": ("a.tgz", flipped(TGZ, len(TGZ) - 6), "damaged or cut short: CRC"),
    "tar.gz with a flipped byte": ("a.tgz", flipped(TGZ, len(TGZ) // 2), "damaged"),
    "tar cut in a file": ("a.tar", TAR[:900], "damaged or cut short"),
    "tar cut in a header": ("a.tar", TAR[:1700], "damaged or cut short"),
    "tar cut between members": ("a.tar", TAR[:1536], "damaged or cut short"),
    "tar with a broken header": ("a.tar", flipped(TAR, 1540), "damaged or cut short"),
    "zip cut short": ("a.zip", ZIP[:-30], "damaged or cut short"),
    "zip with a flipped byte": ("a.zip", flipped(ZIP, ZIP.index(b"a.txt") + 8), "damaged or cut short"),
    "zip that is encrypted": ("a.zip", encrypted(ZIP), "encrypted"),
    "parent folder": ("a.tgz", gzip.compress(tar_of(("../x", b"1"))), "outside"),
    "parent folder within": ("a.tar", tar_of(("birds/../../x", b"1")), "outside"),
    "parent folder in a zip": ("a.zip", zip_of(("../x", b"1")), "'../x' would lie outside"),
    "absolute path": ("a.tar", tar_of((OUTSIDE, b"1")), f"'{OUTSIDE}' would lie outside"),
    "absolute path in a zip": ("a.zip", zip_of((OUTSIDE, b"1")), f"'{OUTSIDE}' would lie outside"),
    "backslashes": ("a.zip", zip_of(("..\\x", b"1")), "would lie outside"),
    "symbolic link out": ("a.tar", tar_of(special(tarfile.SYMTYPE, "../../etc")), "'birds/x' is a link"),
    "hard link out": ("a.tar", tar_of(special(tarfile.LNKTYPE, "/etc/passwd")), "'birds/x' is a link"),
    "link in a zip": ("a.zip", zip_of(zip_link("birds/x")), "'birds/x' is a link"),
    "device": ("a.tar", tar_of(special(tarfile.CHRTYPE)), "'birds/x' is a device"),
    "pipe": ("a.tar", tar_of(special(tarfile.FIFOTYPE)), "'birds/x' is a device"),
    "same name twice": ("a.tar", tar_of(("x", b"1"), ("x", b"2")), "'x' is there twice"),
    "same name, spelt otherwise": ("a.tar", tar_of(("x", b"1"), ("./x", b"2")), "'x' is there twice"),
    "file as a folder": ("a.tar", tar_of(("x", b"1"), ("x/y", b"2")), "is there twice"),
    "control character": ("a.tar", tar_of(("x\x1b[2J", b"1")), "cannot be printed"),
    "newline": ("a.tar", tar_of(("birds/a\nb", b"1")), "cannot be printed"),
    "newline in a zip": ("a.zip", zip_of(("birds/a\nb", b"1")), "cannot be printed"),
    "reversed writing": ("a.tar", tar_of(("birds/\u202egpj.x", b"1")), "cannot be printed"),
    "not UTF-8": ("a.tar", tar_of(("birds/\udcff\udcfe", b"1")), "cannot be printed"),
    "not UTF-8 in a zip": ("a.zip", not_utf8(zip_of(("QQQ", b"1"))), "damaged or cut short: 'utf-8' codec"),
    "long name": ("a.tar", tar_of(("a" * 300, b"1")), "is too long"),
    "deep path": ("a.tar", tar_of(("a/" * 3000 + "x", b"1")), "is too long"),
    "no name": ("a.tar", tar_of(("", b"1")), "is there twice"),
    "parent alone": ("a.tar", tar_of(("..", b"1")), "outside"),
    "path in the extended header": ("a.tar", pax(path="../../x"), "outside"),
    "size in the extended header": ("a.tar", pax(size="-5"), "'birds/x' has a negative size"),
    "no number in the extended header": ("a.tar", pax(size="abc"), "damaged or cut short"),
    "negative size": ("a.tar", claiming(-1), "'x' has a negative size"),
    "a terabyte": ("a.tar", claiming(1 << 40), "expected at most 16777216 bytes inside 2048"),
    "block device": ("a.tar", tar_of(special(tarfile.BLKTYPE)), "'birds/x' is a device"),
    "same name twice in a zip": ("a.zip", zip_of(("x", b"1"), ("x", b"2")), "'x' is there twice"),
    "bzip2 damaged": ("a.zip", packed_by(zipfile.ZIP_BZIP2), "damaged or cut short"),
    "lzma damaged": ("a.zip", packed_by(zipfile.ZIP_LZMA), "damaged or cut short"),
    "bomb in a zip": ("a.zip", zip_of(("x", bytes(17 << 20))), "expected at most 16777216 bytes"),
    "bomb": ("a.tgz", gzip.compress(tar_of(("x", bytes(17 << 20)))), "expected at most 16777216 bytes"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses(tmp_path: Path, case: str) -> None:
    name, data, fault = BAD[case]
    (tmp_path / name).write_bytes(data)
    folder = tmp_path / "deep" / "out"
    folder.mkdir(parents=True)
    with pytest.raises(InputError) as error:
        extract(tmp_path / name, folder)
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert fault in str(error.value)
    assert "\n" not in str(error.value)
    assert not Path(OUTSIDE).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "deep"])
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert not any(path.is_symlink() for path in folder.rglob("*"))


def test_names_that_differ_in_case_alone_are_two_files(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of(("B.txt", b"1"), ("b.txt", b"2")))
    if (tmp_path / "A.TAR").exists():
        pytest.skip("this file system keeps them in one place")
    extract(tmp_path / "a.tar", tmp_path)
    assert [(tmp_path / name).read_bytes() for name in ("B.txt", "b.txt")] == [b"1", b"2"]


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    (tmp_path / "a.tar").write_bytes(TAR)
    with pytest.raises(InputError, match="more than 3 members"):
        extract(tmp_path / "a.tar", tmp_path)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of(("x", b"new")))
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(InputError, match="'x' is there twice"):
        extract(tmp_path / "a.tar", tmp_path)
    assert (tmp_path / "x").read_bytes() == b"old"

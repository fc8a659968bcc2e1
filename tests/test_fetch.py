"""gta.fetch against a server that misbehaves."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Answer, Site, drip, send, serving, stall, stored

from gta.errors import InputError
from gta.fetch import ATTEMPTS, fetch

BODY = bytes(range(256)) * 400
SHA256 = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
MD5 = f"md5:{hashlib.md5(BODY).hexdigest()}"
CUT = 30_001


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


def get(folder: Path, *sources: str, checksum: str | None = SHA256, timeout: float = 30.0) -> Path:
    return fetch("birds.tgz", sources, checksum, folder, timeout=timeout, pause=0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("checksum", [SHA256, MD5, None])
def test_whole_file(site: Site, tmp_path: Path, checksum: str | None) -> None:
    site.answers["/a"] = [stored(BODY)]
    path = get(tmp_path / "new", f"{site.url}/a", checksum=checksum)
    assert path == tmp_path / "new" / "birds.tgz"
    assert path.read_bytes() == BODY
    assert names(tmp_path / "new") == ["birds.tgz"]
    assert get(tmp_path / "new", f"{site.url}/a", checksum=checksum) == path
    assert len(site.requests) == 1, "a good file is not fetched again"


def test_a_cut_connection_is_resumed_at_the_byte(site: Site, tmp_path: Path) -> None:
    site.answers["/a"] = [stored(BODY, cut=CUT), stored(BODY, cut=7), stored(BODY)]
    assert get(tmp_path, f"{site.url}/a").read_bytes() == BODY
    assert site.ranges() == [None, f"bytes={CUT}-", f"bytes={CUT + 7}-"]
    assert [headers.get("If-Range") for _, headers in site.requests] == [None, '"1"', '"1"']


def test_a_later_run_resumes(site: Site, tmp_path: Path) -> None:
    site.answers["/a"] = [stored(BODY, cut=10)]
    with pytest.raises(InputError, match="without sending complete"):
        get(tmp_path, f"{site.url}/a")
    assert names(tmp_path) == ["birds.tgz.part", "birds.tgz.source"]
    site.answers["/a"] = [stored(BODY)]
    assert get(tmp_path, f"{site.url}/a").read_bytes() == BODY
    assert site.ranges()[-1] == f"bytes={10 * ATTEMPTS}-"
    assert names(tmp_path) == ["birds.tgz"]


def test_another_source_does_not_continue_the_part_of_the_first(site: Site, tmp_path: Path) -> None:
    site.answers["/a"] = [stored(b"x" * len(BODY), cut=10)]
    site.answers["/b"] = [stored(BODY)]
    assert get(tmp_path, f"{site.url}/a", f"{site.url}/b").read_bytes() == BODY
    assert site.ranges()[-1] is None


@pytest.mark.parametrize(
    ("case", "second"),
    {
        "the server does not do ranges": send(BODY),
        "another version of the file by now": stored(BODY, etag='"2"'),
        "a chunk of the rest": send(
            BODY[CUT : CUT + 5], 206, Content_Range=f"bytes {CUT}-{CUT + 4}/{len(BODY)}"
        ),
        "another range": send(BODY[5:], 206, Content_Range=f"bytes 5-{len(BODY) - 1}/{len(BODY)}"),
        "range not satisfiable": send(b"", 416),
    }.items(),
)
def test_resuming_from_odd_servers(site: Site, tmp_path: Path, case: str, second: Answer) -> None:
    first = stored(bytes(len(BODY)) if "another version" in case else BODY, cut=CUT)
    site.answers["/a"] = [first, second, stored(BODY, etag='"2"' if "version" in case else '"1"')]
    assert get(tmp_path, f"{site.url}/a").read_bytes() == BODY, case
    assert site.ranges()[1] == f"bytes={CUT}-"


def test_only_a_version_that_means_equal_bytes_is_resumed(site: Site, tmp_path: Path) -> None:
    date = "Mon, 01 Jan 2024 00:00:00 GMT"
    for path, headers, range_ in (
        ("/weak", {"ETag": 'W/"1"'}, None),
        ("/dated", {"ETag": 'W/"1"', "Last_Modified": date}, f"bytes={CUT}-"),
    ):
        site.requests.clear()
        site.answers[path] = [send(BODY[:CUT], 200, len(BODY), **headers), stored(BODY, etag=date)]
        assert get(tmp_path / path[1:], f"{site.url}{path}").read_bytes() == BODY
        assert site.ranges() == [None, range_]


def test_faults_of_a_source_lead_to_the_next(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()
    wrong = BODY[:-1] + b"?"
    site.answers |= {
        "/page": [send(b"\n<!DOCTYPE html><html>moved</html>")],
        "/empty": [send(b"")],
        "/wrong": [stored(wrong)],
        "/short": [send(BODY[:-1], length=len(BODY))],
        "/loop": [send(b"", 302, Location="/loop")],
        "/stall": [stall(BODY, release)],
        "/drip": [drip(BODY, 0.1)],
        "/busy": [send(b"", 503)],
        "/good": [send(b"", 302, Location="/moved")],
        "/moved": [stored(BODY)],
    }
    expected = {
        f"{site.url}/page": "an HTML page instead of the file",
        f"{site.url}/empty": "an empty file",
        f"{site.url}/wrong": f"wrong sha256: expected {SHA256[7:]}, got {hashlib.sha256(wrong).hexdigest()}",
        f"{site.url}/short": f"received {len(BODY) - 1} bytes, expected {len(BODY)}",
        f"{site.url}/loop": "Exceeded maximum allowed redirects",
        f"{site.url}/stall": "stalled (ReadTimeout)",
        f"{site.url}/drip": "stalled (ReadTimeout)",
        f"{site.url}/busy": "status 503",
        f"{site.url}/gone": "status 404",
        "http://127.0.0.1:9/dead": "Connection refused",
        "http://127.0.0.1:port/": "Invalid port",
        str(tmp_path / "none"): "no such file",
        (tmp_path / "none").as_uri(): "no such file",
    }
    with pytest.raises(InputError) as error:
        get(tmp_path, *expected, timeout=1.0)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("birds.tgz: no source gives it (")
    for source, reason in expected.items():
        line = next(text for text in caplog.messages if text.startswith(f"birds.tgz: {source}: "))
        assert reason in line
        assert f"{source}: " in str(error.value)
        assert reason in str(error.value)
    assert sum(path == "/gone" for path, _ in site.requests) == 1, "a fault that stays is not tried again"
    assert sum(path == "/busy" for path, _ in site.requests) == ATTEMPTS
    others = [source for source in expected if not source.endswith(("/stall", "/drip"))]
    assert get(tmp_path, *others, f"{site.url}/good").read_bytes() == BODY
    assert names(tmp_path) == ["birds.tgz"]
    release.set()


def test_a_wrong_file_is_not_resumed(site: Site, tmp_path: Path) -> None:
    site.answers["/a"] = [stored(BODY[:-1] + b"?")]
    with pytest.raises(InputError, match="wrong sha256"):
        get(tmp_path, f"{site.url}/a")
    assert names(tmp_path) == []


def test_a_passing_fault_is_tried_again(site: Site, tmp_path: Path) -> None:
    site.answers["/a"] = [send(b"", 503), send(b"", 429), stored(BODY)]
    assert get(tmp_path, f"{site.url}/a").read_bytes() == BODY


def test_local_sources_are_used_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = tmp_path / "a mirror"
    mirror.mkdir()
    (mirror / "birds.tgz").write_bytes(BODY)
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in (str(mirror / "birds.tgz"), (mirror / "birds.tgz").as_uri(), "~/a mirror/birds.tgz"):
        assert get(tmp_path / "new", source) == mirror / "birds.tgz"
    assert not (tmp_path / "new").exists()


def test_a_wrong_file_in_the_folder_is_replaced(site: Site, tmp_path: Path) -> None:
    site.answers["/a"] = [stored(BODY)]
    (tmp_path / "birds.tgz").write_bytes(b"old")
    with pytest.raises(InputError, match=r"birds\.tgz: wrong sha256: .*; .*/none: no such file"):
        get(tmp_path, str(tmp_path / "none"))
    assert (tmp_path / "birds.tgz").read_bytes() == b"old"
    assert get(tmp_path, f"{site.url}/a").read_bytes() == BODY


def test_no_source(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"birds\.tgz: no source gives it \(none is named\); a copy at .*birds\.tgz"
    ):
        get(tmp_path)

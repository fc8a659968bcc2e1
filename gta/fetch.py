"""Fetches one file from the first source that gives it whole, and verifies it.

Bytes arrive in `<name>.part`; beside it `<name>.source` keeps the address and the server's version of
the file, so that a later run goes on where this one stopped and never joins two different files.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential
from tqdm import tqdm

from gta.atomic import naming
from gta.errors import InputError

logger = logging.getLogger(__name__)

ATTEMPTS = 4
"""Tries of one source while its faults look passing; with doubling pauses, some seconds in all."""
REDIRECTS = 5
"""Redirects that are followed; the known hosts need at most two."""
SLOWEST = 1024
"""Bytes a second, over the time-out, under which a source has stalled: with 3 GB it would take a month."""
PASSING = {408, 416, 425, 429, 500, 502, 503, 504}
"""HTTP statuses worth another try; 416 because the stale part that caused it is dropped."""


class _SourceError(Exception):
    """Why one source did not give the file."""


def fetch(
    name: str,
    sources: Sequence[str],
    checksum: str | None,
    folder: Path,
    timeout: float = 30.0,
    pause: float = 0.5,
) -> Path:
    """The path of the verified file `name`: in `folder`, or in place where a source is a local path.

    sources: addresses (http, https, file) or paths of the very file, tried in order; checksum:
    'sha256:...' or 'md5:...', or None to take any non-empty file; timeout: seconds without an answer or
    with next to no bytes after which a source has stalled; pause: seconds before the second try of a source.

    Raises InputError, one line with the fault of every source, where none gives the file, and OSError where
    `folder` cannot be written.
    """
    final = folder / name
    faults = []
    for source in [str(final), *sources] if final.exists() else sources:
        try:
            if source.startswith(("http://", "https://")):
                return _download(source, final, checksum, timeout, pause)
            return _verified(_local(source), checksum)
        except _SourceError as error:
            logger.warning("%s: %s: %s", name, source, error)
            faults.append(f"{source}: {error}")
    reasons = "; ".join(faults) or "none is named"
    raise InputError(f"{name}: no source gives it ({reasons}); a copy at {final} would be used")


def _local(source: str) -> Path:
    path = Path(unquote(urlsplit(source).path) if source.startswith("file://") else source).expanduser()
    if not path.is_file():
        raise _SourceError("no such file")
    return path


def _verified(path: Path, checksum: str | None) -> Path:
    """`path` if it is what was asked for. A page that says "moved" or "log in" comes with status 200."""
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
        if not start:
            raise _SourceError("an empty file")
        if start.startswith((b"<!doctype html", b"<html")):
            raise _SourceError("an HTML page instead of the file")
        if checksum is not None:
            algorithm, _, expected = checksum.partition(":")
            file.seek(0)
            got = hashlib.file_digest(file, algorithm).hexdigest()
            if got != expected:
                raise _SourceError(f"wrong {algorithm}: expected {expected}, got {got}")
    return path


def _download(url: str, final: Path, checksum: str | None, timeout: float, pause: float) -> Path:
    part, origin = final.with_name(f"{final.name}.part"), final.with_name(f"{final.name}.source")
    final.parent.mkdir(parents=True, exist_ok=True)
    retrying = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=pause),
        retry=retry_if_exception(_passing),
        before_sleep=_report,
        reraise=True,
    )
    try:
        with (
            naming(part),
            httpx.Client(follow_redirects=True, max_redirects=REDIRECTS, timeout=timeout) as client,
        ):
            retrying(_stream, client, url, part, origin, timeout)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _SourceError(_reason(error)) from None
    try:
        _verified(part, checksum).replace(final)
    finally:  # what is wrong must not be resumed, what is right is at its place
        part.unlink(missing_ok=True)
        origin.unlink(missing_ok=True)
    return final


def _stream(client: httpx.Client, url: str, part: Path, origin: Path, timeout: float) -> None:
    """Appends to `part` what is missing of the file at `url`, or writes it anew."""
    offset = part.stat().st_size if part.exists() else 0
    known = origin.read_text(encoding="utf-8").splitlines() if origin.exists() else []
    # identity: a server that compresses on the fly would send other bytes than the file's
    headers = {"Accept-Encoding": "identity"}
    if offset and known[:1] == [url] and known[1]:
        headers |= {"Range": f"bytes={offset}-", "If-Range": known[1]}
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416:
            part.unlink(missing_ok=True)
        response.raise_for_status()
        if response.status_code == 206:
            span, _, total = response.headers.get("Content-Range", "").partition("/")
            if not span.startswith(f"bytes {offset}-"):
                part.unlink(missing_ok=True)
                raise httpx.RemoteProtocolError(f"expected the bytes from {offset}, got {span!r}")
        else:  # the server does not do ranges, or has another version of the file by now
            offset, total = 0, response.headers.get("Content-Length", "")
            origin.write_text(f"{url}\n{_version(response)}\n", encoding="utf-8")
        _append(response, part, offset, int(total) if total.isdigit() else None, timeout)


def _version(response: httpx.Response) -> str:
    """What If-Range may ask for: a strong ETag (files of equal weak ones may differ), a date, or nothing."""
    etag: str = response.headers.get("ETag", "W/")
    return response.headers.get("Last-Modified", "") if etag.startswith("W/") else etag


def _append(response: httpx.Response, part: Path, offset: int, total: int | None, timeout: float) -> None:
    since, seen = time.monotonic(), offset
    with (
        part.open("ab" if offset else "wb") as file,
        tqdm(total=total, initial=offset, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,
    ):
        for chunk in response.iter_raw():  # as they come; raises where they end before Content-Length
            file.write(chunk)
            bar.update(len(chunk))
            if (now := time.monotonic()) - since >= timeout:
                if file.tell() - seen < SLOWEST * (now - since):
                    raise httpx.ReadTimeout(f"{file.tell() - seen} bytes in {now - since:.0f} s")
                since, seen = now, file.tell()
        os.fsync(file.fileno())
        if total is not None and file.tell() != total:
            raise httpx.RemoteProtocolError(f"expected {total} bytes, got {file.tell()}")


def _passing(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in PASSING
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)


def _reason(error: BaseException) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"status {error.response.status_code} {error.response.reason_phrase}".strip()
    if isinstance(error, httpx.TimeoutException):
        return f"stalled ({type(error).__name__})"
    return " ".join(str(error).split()) or type(error).__name__


def _report(state: RetryCallState) -> None:
    if state.outcome is not None and (error := state.outcome.exception()) is not None:
        logger.warning("%s: %s; trying again", state.args[1], _reason(error))

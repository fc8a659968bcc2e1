"""Faults of the net, by a real server: an archive has two addresses, the source's weights have one."""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from threading import Event

from serving import Answer, drip, send, stall, stored

from tools.campaign.faults import Fault, Harm, judged
from tools.campaign.ground import Ground
from tools.campaign.trial import Trial

ARCHIVE, WEIGHTS = "CUB_200_2011.tgz", "demo_source.safetensors"
PAGE = send(b"<!DOCTYPE html><html>Please log in.</html>")
CUT = "incomplete|without sending|peer closed|received"


def net(ground: Ground, count: int, rng: random.Random) -> Iterator[Trial]:
    """The first `count` of the faults in random order."""
    chosen = list(faults(ground, rng))
    rng.shuffle(chosen)
    yield from judged(chosen[:count], ground)


def faults(ground: Ground, rng: random.Random) -> Iterator[Fault]:
    birds, source = ground.named("objects"), ground.named("source")
    archive = (ground.path.with_name("mirror") / ARCHIVE).read_bytes()
    weights = (ground.path / "assets" / WEIGHTS).read_bytes()
    both, first = (f"/first/{ARCHIVE}", f"/second/{ARCHIVE}"), (f"/first/{ARCHIVE}",)

    def of_archive(case: str, cause: str, *answers: Answer) -> Fault:
        return Fault(f"net: {case}", "both addresses", birds, answering(both, *answers), cause, ARCHIVE)

    def of_first(case: str, cause: str, *answers: Answer) -> Fault:
        harm = answering(first, *answers)
        return Fault(f"net: {case}", "the first address", birds, harm, cause, passes=True)

    def of_weights(case: str, cause: str, *answers: Answer) -> Fault:
        return Fault(f"net: {case}", "weights", source, answering((f"/{WEIGHTS}",), *answers), cause, WEIGHTS)

    for case, url, cause in (
        ("connection refused", "http://127.0.0.1:9", "Connection refused"),
        ("no such host", "http://nowhere.invalid", "not known|resolution|resolve"),
        ("TLS to a server without", ground.site.url.replace("http", "https"), "SSL|TLS"),
    ):
        yield Fault(f"net: {case}", "both addresses", birds, moved_to(url, ARCHIVE), cause, ARCHIVE)
        yield Fault(f"net: {case}", "weights", source, moved_to(url, WEIGHTS), cause, WEIGHTS)
    for _ in range(4):
        at = rng.randrange(1, len(archive))
        yield of_first("cut, then resumed", "trying again", stored(archive, cut=at), stored(archive))
    at = rng.randrange(1, len(weights))
    resumed = answering((f"/{WEIGHTS}",), stored(weights, cut=at), stored(weights))
    yield Fault("net: cut, then resumed", "weights", source, resumed, "trying again", passes=True)
    yield of_archive("cut again and again", CUT, stored(archive, cut=10))
    yield of_weights("cut again and again", CUT, stored(weights, cut=10))
    yield of_first("stalled", "stalled", stall(archive, Event()))
    yield of_weights("stalled", "stalled", stall(weights, Event()))
    yield of_first("slow, before a good one", "stalled", drip(archive, 0.7))
    loop = send(b"", 302, Location=f"/first/{ARCHIVE}")
    yield of_archive("redirect loop", "redirects", loop)
    yield of_weights("redirect loop", "redirects", send(b"", 302, Location=f"/{WEIGHTS}"))
    yield of_archive("wrong length", CUT, send(archive, length=len(archive) + 9))
    yield of_weights("wrong length", "wrong sha256", send(weights, length=len(weights) - 9))
    yield of_archive("an HTML page", "an HTML page", PAGE)
    yield of_weights("an HTML page", "an HTML page", PAGE)
    other = archive[:-9] + rng.randbytes(9)
    yield of_archive("a changed file", "wrong sha256", stored(other))
    yield of_weights("a changed file", "wrong sha256", stored(weights[:-9] + rng.randbytes(9)))
    half = len(archive) // 2
    yield of_first(
        "changed while it is resumed", "trying again", stored(other, cut=half), stored(archive, '"2"')
    )
    yield of_first("changed without a word", "wrong sha256", stored(archive, cut=half), stored(other))
    yield of_archive("not found", "status 404", send(b"", 404))
    yield of_weights("busy", "status 503", send(b"", 503))
    yield of_first("busy, then well", "trying again", send(b"", 503), send(b"", 429), stored(archive))
    yield of_archive("empty", "an empty file", send(b""))
    yield of_weights("empty", "an empty file", send(b""))
    yield of_archive("no HTTP", "illegal|disconnected|protocol", garbage)
    yield of_archive(
        "packed on the way", "wrong sha256", send(gzip.compress(archive), Content_Encoding="gzip")
    )


def answering(paths: tuple[str, ...], *answers: Answer) -> Harm:
    """Lets the server answer otherwise, the last answer for good."""

    @contextmanager
    def harm(ground: Ground) -> Iterator[None]:
        before = {path: ground.site.answers[path] for path in paths}
        ground.site.answers |= {path: [*answers] for path in paths}
        try:
            yield
        finally:
            ground.site.answers |= before

    return harm


def moved_to(url: str, name: str) -> Harm:
    """Lets params.yaml name another server for one file."""

    @contextmanager
    def harm(ground: Ground) -> Iterator[None]:
        params = ground.path / "params.yaml"
        before = params.read_text()
        params.write_text(re.sub(rf"{ground.site.url}(?=\S*{name})", url, before))
        try:
            yield
        finally:
            params.write_text(before)

    return harm


def garbage(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"220 FTP server ready\r\n\r\n")
    handler.close_connection = True

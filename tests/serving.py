"""A web server for tests that misbehaves as told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Site:
    """`answers` by path, called in turn (the last one for good); `requests` holds (path, headers)."""

    url: str
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.requests]


@contextmanager
def serving() -> Iterator[Site]:
    """A site on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # the name is http.server's
            path = self.path.split("?")[0]
            site.requests.append((path, dict(self.headers)))
            answers = site.answers.get(path, [send(b"", status=404)])
            (answers.pop(0) if len(answers) > 1 else answers[0])(self)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Clients that hang up are what is tested."""

    server = Server(("127.0.0.1", 0), Handler)
    site = Site(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(body: bytes, status: int = 200, length: int | None = None, **headers: str) -> Answer:
    """Sends `body` and closes; `length`: what Content-Length claims."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.send_header("Connection", "close")
        for key, value in headers.items():
            handler.send_header(key.replace("_", "-"), value)
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body)

    return answer


def stored(body: bytes, etag: str = '"1"', cut: int | None = None) -> Answer:
    """A file as a proper server sends it, ranges and If-Range included; `cut`: bytes after which it dies."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        span = handler.headers.get("Range", "")
        if not span or handler.headers.get("If-Range", etag) != etag:
            send(body[:cut], 200, len(body), ETag=etag)(handler)
            return
        start = int(span.removeprefix("bytes=").removesuffix("-"))
        if start >= len(body):
            send(b"", 416, Content_Range=f"bytes */{len(body)}")(handler)
            return
        content = f"bytes {start}-{len(body) - 1}/{len(body)}"
        send(body[start:][:cut], 206, len(body) - start, ETag=etag, Content_Range=content)(handler)

    return answer


def stall(body: bytes, until: threading.Event) -> Answer:
    """Sends half of `body` and then nothing."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2])
        handler.wfile.flush()
        until.wait(60)
        handler.close_connection = True

    return answer


def drip(body: bytes, pause: float) -> Answer:
    """Sends a byte, and after so many seconds the next one."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        for byte in body:
            handler.wfile.write(bytes([byte]))
            time.sleep(pause)

    return answer

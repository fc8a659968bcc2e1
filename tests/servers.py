"""Real remotes on this machine: a folder, an S3 server, an SSH server."""

from __future__ import annotations

import asyncio
import getpass
import re
import secrets
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh
from repository import ENVIRONMENT

SSHD = shutil.which("sshd", path=f"{ENVIRONMENT['PATH']}:/usr/sbin:/usr/local/sbin")


@dataclass
class Remote:
    """`url` as `make remote` takes it; `options`: those of `dvc remote modify --local`; `environment`: what a
    user exports; `folder`: where the server keeps its files; `secret`: what nobody else may see, if any."""

    url: str
    folder: Path
    secret: str = ""
    options: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


@contextmanager
def folder(path: Path) -> Iterator[Remote]:
    yield Remote(str(path / "store"), path / "store")


@contextmanager
def s3(path: Path) -> Iterator[Remote]:
    """rclone's S3 server, from the package index."""
    bucket, key, secret = path / "buckets/gta", "reader", secrets.token_hex(16)
    bucket.mkdir(parents=True, exist_ok=True)
    command = [
        "rclone",
        "serve",
        "s3",
        "--addr",
        "127.0.0.1:0",
        "--auth-key",
        f"{key},{secret}",
        "--dir-cache-time=100ms",  # tests break things behind its back; with 0 it never rests
        "--poll-interval=0",
        str(bucket.parent),
    ]
    environment = {**ENVIRONMENT, "RCLONE_CONFIG": "/dev/null"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stderr is not None
            said = next(line for line in server.stderr if "127.0.0.1:" in line)
            threading.Thread(target=server.stderr.read, daemon=True).start()  # else it waits for a reader
            address = re.findall(r"http://127\.0\.0\.1:\d+", said)[0]
            environment = {
                "AWS_ACCESS_KEY_ID": key,
                "AWS_SECRET_ACCESS_KEY": secret,
                "AWS_ENDPOINT_URL_S3": address,
                "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
                "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            }
            yield Remote("s3://gta/store", bucket / "store", secret, environment=environment)
        finally:
            server.terminate()


@contextmanager
def ssh(path: Path) -> Iterator[Remote]:
    """OpenSSH's sshd where this machine has it, else the SFTP server of asyncssh; either with a key pair."""
    for name in ("host", "user"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(path / name)
        (path / name).chmod(0o600)
        key.write_public_key(path / f"{name}.pub")
    start = _asyncssh if SSHD is None else _openssh
    with start(path) as port:
        url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{path}/store"
        yield Remote(url, path / "store", (path / "user").read_text(), {"keyfile": str(path / "user")})


@contextmanager
def _openssh(path: Path) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    if getpass.getuser() == "root":
        Path("/run/sshd").mkdir(exist_ok=True)  # without it sshd refuses to start as root
    settings = f"HostKey {path}/host\nAuthorizedKeysFile {path}/user.pub\nPidFile none\nStrictModes no\n"
    settings += f"ListenAddress 127.0.0.1:{port}\nUsePAM no\nSubsystem sftp internal-sftp\n"
    (path / "sshd_config").write_text(settings)
    command = [str(SSHD), "-D", "-e", "-f", str(path / "sshd_config")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            said = next(server.stderr, "it ended without a word")
            assert "listening" in said, said
            threading.Thread(target=server.stderr.read, daemon=True).start()
            yield port
        finally:
            server.terminate()


@contextmanager
def _asyncssh(path: Path) -> Iterator[int]:
    loop = asyncio.new_event_loop()
    listening = asyncssh.listen(
        "127.0.0.1", 0, server_host_keys=[str(path / "host")],
        authorized_client_keys=str(path / "user.pub"), sftp_factory=True,
    )  # fmt: skip
    server = loop.run_until_complete(listening)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.get_port()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()


SERVERS: dict[str, Callable[[Path], AbstractContextManager[Remote]]] = {
    "folder": folder,
    "s3": s3,
    "ssh": ssh,
}

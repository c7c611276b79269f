"""Real servers on the loopback: nginx, one that ignores Range, and a proxy that breaks things."""

import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

NGINX_CONF = """
daemon off; master_process off; pid nginx.pid; error_log error.log;
events {{ worker_connections 256; }}
http {{
    log_format asked '$request_method $uri $status $body_bytes_sent $http_range';
    access_log access.log asked;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port};
        root {root};
        location /forbidden/ {{ return 403; }}
    }}
    server {{
        listen 127.0.0.1:{tls_port} ssl;
        ssl_certificate cert.pem; ssl_certificate_key key.pem;
        root {root};
    }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    """A running nginx: its addresses, the folder that it serves, what it was asked."""

    port: int
    tls_port: int
    root: Path
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def certificate(self) -> Path:
        return self.folder / "cert.pem"

    def asked(self, method: str, name: str) -> list[str]:
        """Log lines of one object."""
        lines = (self.folder / "access.log").read_text().splitlines()
        return [line for line in lines if line.startswith(f"{method} /{name} ")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def nginx_server(folder: Path) -> Iterator[Nginx]:
    command = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if command is None:
        pytest.skip("nginx is not installed")
    server = Nginx(free_port(), free_port(), folder / "root", folder)
    server.root.mkdir(parents=True)
    text = NGINX_CONF.format(port=server.port, tls_port=server.tls_port, root=server.root)
    (folder / "nginx.conf").write_text(text)
    request = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2"
    subprocess.run(
        [*request.split(), "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    process = subprocess.Popen(
        [command, "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(server.port)
        yield server
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")


@dataclass
class FlakyProxy:
    """Passes requests on, one a connection; the next GETs suffer `faults`, then all goes well.

    A fault is "503", "cut" (after half of the body) or "stall" (after half of the body, for good).
    """

    upstream: int
    faults: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)  # of each GET
    body_bytes: int = 0  # sent in answer to GETs
    port: int = 0
    stalled: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, suppress(OSError):  # the client went away
            self._answer(client)

    def _answer(self, client: socket.socket) -> None:
        head = _head(client)
        lines = head.decode().split("\r\n")
        fault = ""
        if is_get := lines[0].startswith("GET "):
            self.ranges += [line[7:] for line in lines if line.lower().startswith("range: ")]
            fault = self.faults.pop(0) if self.faults else ""
        if fault == "503":
            client.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", self.upstream)) as server:
            server.sendall(head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            answer_head = _head(server)
            client.sendall(answer_head)
            left = _length(answer_head) if is_get else 0
            left = left // 2 if fault in ("cut", "stall") else left
            while left and (data := server.recv(min(left, 2**16))):
                self.body_bytes += len(data)  # before the client can have seen the last of them
                client.sendall(data)
                left -= len(data)
        if fault == "stall":
            self.stalled.set()
            time.sleep(60)


def _head(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\r\n\r\n") and (byte := connection.recv(1)):
        data += byte
    return data


def _length(head: bytes) -> int:
    lines = head.decode().lower().split("\r\n")
    return next((int(line[15:]) for line in lines if line.startswith("content-length:")), 0)


@contextmanager
def flaky_proxy(upstream: int, *faults: str) -> Iterator[FlakyProxy]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = FlakyProxy(upstream, list(faults), port=listener.getsockname()[1])
        threading.Thread(target=proxy.serve, args=(listener,), daemon=True).start()
        yield proxy


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


class _Chunked(_Quiet):
    """Does not say how large an object is."""

    def send_header(self, keyword: str, value: str) -> None:
        if keyword.lower() != "content-length":
            super().send_header(keyword, value)


@contextmanager
def rangeless_server(root: Path, *, says_size: bool = True) -> Iterator[str]:
    """Python's own server, which answers the whole file whatever Range says."""
    handler = partial(_Quiet if says_size else _Chunked, directory=os.fspath(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class _Hub(_Quiet):
    """As much of the Hub as hf:// asks of it: one flat data set, `owner/name`, at main."""

    def do_GET(self) -> None:
        root, path = Path(self.directory), self.path.partition("?")[0]
        self.server.asked.append(f"{path} {self.headers['Range'] or ''}".strip())  # type: ignore[attr-defined]
        if path == "/api/datasets/owner/name":
            self._say(json.dumps({"_id": "0", "id": "owner/name", "sha": "0" * 40, "tags": []}))
        elif path == "/api/datasets/owner/name/tree/main":
            rows = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0"}
                for file in sorted(root.iterdir())
            ]
            self._say(json.dumps(rows))
        elif path.startswith("/datasets/owner/name/resolve/main/"):
            data = (root / path.rpartition("/")[2]).read_bytes()
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            self._say(data[int(first) : int(last) + 1], status=206)
        else:
            self.send_error(404)

    def _say(self, body: str | bytes, *, status: int = 200) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def hub_server(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Address of a small Hub whose data set holds the files of a folder, and what it was asked."""
    handler = partial(_Hub, directory=os.fspath(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", server.asked  # type: ignore[attr-defined]
        server.shutdown()

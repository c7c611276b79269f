"""A local Hub over real HTTP, with faults on request.

Two listeners, as with the real one: the Hub, and the storage of large objects, another origin,
to which no token should go. Knows sockets; what is answered is in `tests.hub.api`.
"""

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from tests.hub import reading, writing
from tests.hub.api import Account, Answer, Api, Request, Routes, json_answer
from tests.hub.repository import Repository

MESSAGES = {401: "Invalid credentials in Authorization header", 429: "We had to rate limit you"}


Status = int | Literal["cut", "lost", "stall"]


@dataclass(frozen=True)
class Fault:
    """What happens to the next `times` requests whose method is this and whose path holds `path`.

    `status` is an HTTP status (with `code` as X-Error-Code, and Retry-After where `retry_after` is
    not None), or

    - "cut": of a request with a body the first half is read, then the connection closed; of a GET
      half of the answer's body is sent; without any body there is no answer. Nothing is done.
    - "lost": the request is carried out, then the connection closed without an answer
    - "stall": nothing for `seconds`, then the connection is closed. Nothing is done.
    """

    method: str = ""
    path: str = ""
    status: Status = 500
    times: int = 1
    retry_after: int | None = None
    code: str = ""
    message: str = ""
    seconds: float = 30.0

    def hits(self, method: str, target: str) -> bool:
        return self.method in ("", method) and self.path in target

    @property
    def answer(self) -> Answer:
        assert isinstance(self.status, int)
        message = self.message or MESSAGES.get(self.status, f"injected {self.status}")
        told = {"X_Error_Message": message, "X_Error_Code": self.code}
        if self.retry_after is not None:
            told["Retry_After"] = str(self.retry_after)
        headers = {name: text for name, text in told.items() if text}
        return json_answer({"error": message}, status=self.status, **headers)


class Faults:
    """The faults to come, taken in their order."""

    def __init__(self) -> None:
        self._left: list[Fault] = []
        self._lock = threading.Lock()

    def append(self, fault: Fault) -> None:
        with self._lock:
            self._left += [fault] * fault.times

    def take(self, method: str, target: str) -> Fault | None:
        with self._lock:
            found = next((fault for fault in self._left if fault.hits(method, target)), None)
            if found:
                self._left.remove(found)
            return found

    def __len__(self) -> int:
        return len(self._left)


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    authorization: str
    byte_range: str
    body_bytes: int


@dataclass
class Hub:
    """A running Hub: what to put into it, and what it saw. The storage's paths start with /lfs/."""

    api: Api
    token: str = "hf_writer"  # of "user"
    read_token: str = "hf_reader"  # of "user" too
    stranger_token: str = "hf_stranger"
    faults: Faults = field(default_factory=Faults)
    seen: list[Seen] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return self.api.url

    @property
    def repos(self) -> dict[str, Repository]:
        return self.api.repos

    @property
    def requests(self) -> list[str]:
        """ "POST /api/repos/create" and so on, without queries."""
        return [f"{seen.method} {seen.path}" for seen in self.seen]

    @property
    def uploaded_bytes(self) -> int:
        """Of large objects, failed attempts too."""
        return sum(seen.body_bytes for seen in self.seen if seen.method == "PUT")

    def asked(self, method: str, part: str) -> int:
        """How many requests of this method had this in their path."""
        return sum(seen.method == method and part in seen.path for seen in self.seen)

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """All but the .gitattributes, which every repository has from the start."""
        files = self.repos[repo].resolve(revision).files
        return {path: stored.data for path, stored in files.items() if path != ".gitattributes"}


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def handle(self) -> None:
        with suppress(ConnectionError, TimeoutError):  # the client went away
            super().handle()

    def _serve(self) -> None:
        fault = self.hub.faults.take(self.command, self.path)
        kind = fault.status if fault else None
        body = self._body(share=0.5 if kind == "cut" else 1)
        token = self.headers["Authorization"] or ""
        request = Request(self.command, self.path, token, self.headers["Range"] or "", body)
        seen = Seen(self.command, request.path, token, request.byte_range, len(body))
        self.hub.seen.append(seen)
        if kind == "stall":
            assert fault
            self.hub.stopped.wait(fault.seconds)
        if kind == "stall" or (kind == "cut" and self.command != "GET"):
            self._hang_up()
            return
        answer = fault.answer if fault and isinstance(kind, int) else self.hub.api.answer(request)
        if kind != "lost":
            self._send(answer, share=0.5 if kind == "cut" else 1)
        if kind in ("lost", "cut"):
            self._hang_up()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _body(self, *, share: float) -> bytes:
        if "chunked" in (self.headers["Transfer-Encoding"] or ""):
            parts = []
            while size := int(self._line(), 16):
                parts.append(self._read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self._read(int(int(self.headers["Content-Length"] or 0) * share))

    def _line(self) -> bytes:
        if not (line := self.rfile.readline()):
            raise ConnectionError("the client went away")
        return line

    def _read(self, size: int) -> bytes:
        """Half a body must not pass for a whole one."""
        if len(data := self.rfile.read(size)) < size:
            raise ConnectionError("the client went away")
        return data

    def _send(self, answer: Answer, *, share: float) -> None:
        self.send_response(answer.status)
        for name, text in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: int(len(answer.body) * share)])

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def hub_server() -> Iterator[Hub]:
    """An empty Hub on the loopback."""
    handler = type("Handler", (_Handler,), {})
    with _listener(handler) as main, _listener(handler) as storage:
        routes = Routes([*reading.ROUTES, *writing.ROUTES])
        api = Api({}, routes=routes, url=_address(main), storage_url=_address(storage))
        hub = Hub(api)
        api.tokens |= {
            hub.token: Account("user"),
            hub.read_token: Account("user", can_write=False),
            hub.stranger_token: Account("stranger"),
        }
        handler.hub = hub  # type: ignore[attr-defined]
        for server in (main, storage):
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield hub
        finally:
            hub.stopped.set()
            main.shutdown()
            storage.shutdown()


def _listener(handler: type[_Handler]) -> http.server.ThreadingHTTPServer:
    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)


def _address(server: http.server.ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"

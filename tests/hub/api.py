"""Requests and answers of the Hub's API, as values, and who may see and change what.

The pages are in `tests.hub.reading` and `writing`. Knows nothing of sockets or faults.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.repository import HubError, Repository


@dataclass(frozen=True)
class Account:
    """Whose token it is, and whether the token may write."""

    name: str
    can_write: bool = True


@dataclass(frozen=True)
class Request:
    """One request, its body whole."""

    method: str
    target: str  # path and query, still quoted
    authorization: str = ""
    byte_range: str = ""
    body: bytes = b""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query)

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body or b"{}")
        return value


@dataclass(frozen=True)
class Answer:
    """Status, body, and headers beside Content-Length."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def json_answer(value: object, *, status: int = 200, **headers: str) -> Answer:
    """Header names in Python's spelling: X_Error_Code."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **named})


def refusal(error: HubError) -> Answer:
    told = {"X_Error_Code": error.code, "X_Repo_Commit": error.commit}
    headers = {name: text for name, text in told.items() if text}
    body = {"error": error.message}
    return json_answer(body, status=error.status, X_Error_Message=error.message, **headers)


def ranged(data: bytes, byte_range: str, headers: dict[str, str]) -> Answer:
    """All of it, or the part that Range asks for."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", byte_range)
    headers = {**headers, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if not found or not any(found.groups()):
        return Answer(200, data, headers)
    first, last = found.groups()
    start = int(first) if first else max(0, len(data) - int(last))
    stop = min(len(data), int(last) + 1) if first and last else len(data)
    if start >= stop:
        return Answer(416, b"", {**headers, "Content-Range": f"bytes */{len(data)}"})
    place = f"bytes {start}-{stop - 1}/{len(data)}"
    return Answer(206, data[start:stop], {**headers, "Content-Range": place})


View = Callable[..., Answer]
REPO = r"(?P<repo>[^/]+/[^/]+?)"
MODEL = f"/api/models/{REPO}"


class Routes(list[tuple[str, re.Pattern[str], View]]):
    """Which function answers what."""

    def add(self, methods: str, pattern: str) -> Callable[[View], View]:
        """The named groups of the pattern become the view's arguments, unquoted."""

        def keep(view: View) -> View:
            self.extend((method, re.compile(pattern), view) for method in methods.split())
            return view

        return keep


class Api:
    """Every repository, and who may see and change it."""

    def __init__(
        self, tokens: dict[str, Account], *, routes: Routes, url: str, storage_url: str
    ) -> None:
        self.tokens, self.routes = tokens, routes
        self.url, self.storage_url = url, storage_url
        self.repos: dict[str, Repository] = {}
        self.lock = threading.RLock()

    def answer(self, request: Request) -> Answer:
        for method, pattern, view in self.routes:
            if method == request.method and (found := pattern.fullmatch(request.path)):
                groups = {n: unquote(text or "") for n, text in found.groupdict().items()}
                try:
                    with self.lock:
                        return view(self, request, **groups)
                except HubError as error:
                    return refusal(error)
                except (KeyError, ValueError) as error:
                    return refusal(HubError(400, "", f"malformed request: {error!r}"))
        return refusal(HubError(404, "", f"no such page: {request.method} {request.path}"))

    def account(self, request: Request) -> Account | None:
        """Nobody without a token; a wrong token is refused."""
        if not request.authorization:
            return None
        token = request.authorization.removeprefix("Bearer ")
        if token not in self.tokens:
            raise HubError(401, "", "Invalid credentials in Authorization header")
        return self.tokens[token]

    def readable(self, request: Request, name: str) -> Repository:
        """What is missing and what is private look the same to a stranger.

        The Hub's 401 has no X-Error-Code; the client takes it for RepoNotFound by its address, but
        only of an https:// one. With the code its exception is here what it is in the world.
        """
        account, repo = self.account(request), self.repos.get(name)
        if repo is not None and not repo.private:
            return repo
        if account is None:
            raise HubError(401, "RepoNotFound", "Invalid username or password.")
        if repo is None or account.name != name.partition("/")[0]:
            raise HubError(404, "RepoNotFound", "Repository not found")
        return repo

    def writable(self, request: Request, name: str) -> Repository:
        repo = self.readable(request, name)
        if self.account(request) is None:
            raise HubError(401, "RepoNotFound", "Invalid username or password.")
        self.check_writer(request, name.partition("/")[0])
        return repo

    def check_writer(self, request: Request, namespace: str) -> None:
        account = self.account(request)
        if account is None:
            raise HubError(401, "", "Invalid username or password.")
        if not account.can_write:
            raise HubError(403, "", "You must use a write token to upload to a repository.")
        if account.name != namespace:
            raise HubError(403, "", f'You don\'t have the rights under the namespace "{namespace}"')

    def signed(self, name: str, oid: str) -> str:
        """Address of a large object in the storage, which asks for no token."""
        return f"{self.storage_url}/lfs/{name}/{oid}?key={self.key(oid)}"

    def key(self, oid: str) -> str:
        return hashlib.sha256(f"storage {oid}".encode()).hexdigest()[:16]

    def check_key(self, request: Request, oid: str) -> None:
        if request.query.get("key") != [self.key(oid)]:
            raise HubError(403, "", "SignatureDoesNotMatch")

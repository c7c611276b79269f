"""What the Hub answers to questions: repositories, trees, refs, files."""

import hashlib
from typing import Any
from urllib.parse import parse_qs

from tests.hub.api import MODEL, REPO, Answer, Api, Request, Routes, json_answer, ranged
from tests.hub.card import front_matter
from tests.hub.repository import Commit, HubError, StoredFile

ROUTES = Routes()


@ROUTES.add("GET", "/api/whoami-v2")
def whoami(api: Api, request: Request) -> Answer:
    account = api.account(request)
    if account is None:
        raise HubError(401, "", "Invalid username or password.")
    token = {"displayName": "test", "role": "write" if account.can_write else "read"}
    auth = {"type": "access_token", "accessToken": token}
    return json_answer({"type": "user", "name": account.name, "orgs": [], "auth": auth})


@ROUTES.add("GET", "/api/agent-harnesses")
def agent_harnesses(_: Api, __: Request) -> Answer:
    """What the client asks once a day to fill its User-Agent."""
    return json_answer({"standardEnvVars": [], "harnesses": {}})


@ROUTES.add("GET", f"{MODEL}(/revision/(?P<revision>[^/]+))?")
def model_info(api: Api, request: Request, repo: str, revision: str) -> Answer:
    found = api.readable(request, repo)
    commit = found.resolve(revision or "main")
    with_blobs = "blobs" in request.query
    readme = commit.files.get("README.md")
    card = (front_matter(readme.data.decode()) if readme else None) or {}
    return json_answer(
        {
            "_id": "0",
            "id": repo,
            "modelId": repo,
            "author": repo.partition("/")[0],
            "sha": commit.id,
            "private": found.private,
            "gated": "manual" if found.gated else False,
            "lastModified": moment(commit),
            "cardData": card,
            "tags": card.get("tags", []),
            "pipeline_tag": card.get("pipeline_tag"),
            "library_name": card.get("library_name"),
            "siblings": [
                {"rfilename": path, **(sibling(stored) if with_blobs else {})}
                for path, stored in sorted(commit.files.items())
            ],
        }
    )


def moment(commit: Commit) -> str:
    return commit.date.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def sibling(stored: StoredFile) -> dict[str, Any]:
    row: dict[str, Any] = {"size": len(stored.data), "blobId": stored.oid}
    if stored.large:
        sizes = {"size": len(stored.data), "pointerSize": len(stored.pointer)}
        row["lfs"] = {"sha256": stored.sha256, **sizes}
    return row


def entry(path: str, stored: StoredFile) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "path": path}
    row |= {"oid": stored.oid, "size": len(stored.data)}
    if stored.large:
        sizes = {"size": len(stored.data), "pointerSize": len(stored.pointer)}
        row["lfs"] = {"oid": stored.sha256, **sizes}
    return row


def folder_entry(path: str) -> dict[str, Any]:
    oid = hashlib.sha1(path.encode()).hexdigest()
    return {"type": "directory", "path": path, "oid": oid, "size": 0}


def folders(files: dict[str, StoredFile]) -> set[str]:
    return {path[:i] for path in files for i, letter in enumerate(path) if letter == "/"}


@ROUTES.add("GET", f"{MODEL}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?")
def tree(api: Api, request: Request, repo: str, revision: str, folder: str) -> Answer:
    commit = api.readable(request, repo).resolve(revision)
    known = folders(commit.files)
    if folder and folder not in known:
        raise HubError(404, "EntryNotFound", f"{folder} does not exist", commit=commit.id)
    rows = [*map(folder_entry, known), *(entry(*item) for item in commit.files.items())]
    start = f"{folder}/" if folder else ""
    deep = request.query.get("recursive", ["false"])[0].lower() == "true"
    below = [row for row in rows if row["path"].startswith(start)]
    kept = [row for row in below if deep or "/" not in row["path"].removeprefix(start)]
    return json_answer(sorted(kept, key=lambda row: row["path"]))


@ROUTES.add("POST", f"{MODEL}/paths-info/(?P<revision>[^/]+)")
def paths_info(api: Api, request: Request, repo: str, revision: str) -> Answer:
    files = api.readable(request, repo).resolve(revision).files
    paths = parse_qs(request.body.decode()).get("paths", [])
    known = folders(files)
    rows = [entry(path, files[path]) for path in paths if path in files]
    return json_answer(rows + [folder_entry(path) for path in paths if path in known])


@ROUTES.add("GET", f"{MODEL}/commits/(?P<revision>[^/]+)")
def commits(api: Api, request: Request, repo: str, revision: str) -> Answer:
    author = {"user": repo.partition("/")[0]}
    rows = [
        {"id": c.id, "title": c.title, "message": c.message, "date": moment(c), "authors": [author]}
        for c in api.readable(request, repo).history(revision)
    ]
    return json_answer(rows)


@ROUTES.add("GET", f"{MODEL}/refs")
def refs(api: Api, request: Request, repo: str) -> Answer:
    found = api.readable(request, repo)

    def rows(kind: str, named: dict[str, str]) -> list[dict[str, str]]:
        return [
            {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}
            for name, commit in named.items()
        ]

    named = {"branches": rows("heads", found.branches), "tags": rows("tags", found.tags)}
    return json_answer({**named, "converts": [], "pullRequests": []})


@ROUTES.add("GET HEAD", f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(api: Api, request: Request, repo: str, revision: str, path: str) -> Answer:
    """A file itself, or where the storage keeps it."""
    found = api.readable(request, repo)
    account = api.account(request)
    if found.gated and (account is None or account.name != repo.partition("/")[0]):
        raise HubError(
            403 if account else 401, "GatedRepo", f"Access to model {repo} is restricted"
        )
    headers = {"X-Repo-Commit": found.resolve(revision).id}
    stored = found.file(path, revision=revision)
    if not stored.large:
        headers["ETag"] = f'"{stored.etag}"'
        return ranged(stored.data, request.byte_range, headers)
    headers |= {"X-Linked-Etag": f'"{stored.etag}"', "X-Linked-Size": str(len(stored.data))}
    return Answer(302, b"", {**headers, "Location": api.signed(repo, stored.sha256)})


@ROUTES.add("GET HEAD", f"/lfs/{REPO}/(?P<oid>[0-9a-f]{{64}})")
def get_object(api: Api, request: Request, repo: str, oid: str) -> Answer:
    api.check_key(request, oid)
    return ranged(api.repos[repo].objects[oid], request.byte_range, {"ETag": f'"{oid}"'})

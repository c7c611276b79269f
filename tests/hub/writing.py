"""How the Hub takes what is pushed: repositories, branches, tags, large objects, commits."""

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any

from tests.hub.api import MODEL, REPO, Answer, Api, Request, Routes, json_answer
from tests.hub.card import card_problems
from tests.hub.repository import Change, HubError, Repository, StoredFile

ROUTES = Routes()
REGULAR_LIMIT = 100_000  # bytes; the Hub's own is 10 MB, too much for a quick test
LARGE_SUFFIXES = (".safetensors", ".ckpt", ".png", ".jpg", ".webp", ".bin", ".pt", ".zip", ".tar")


@ROUTES.add("POST", "/api/validate-yaml")
def validate_yaml(_: Api, request: Request) -> Answer:
    found = [
        [{"message": text} for text in texts] for texts in card_problems(request.json["content"])
    ]
    status = 400 if found[0] else 200
    return json_answer({"errors": found[0], "warnings": found[1]}, status=status)


@ROUTES.add("POST", "/api/repos/create")
def create_repo(api: Api, request: Request) -> Answer:
    said = request.json
    account = api.account(request)
    namespace = said.get("organization") or (account.name if account else "")
    api.check_writer(request, namespace)
    name = f"{namespace}/{said['name']}"
    told = {"url": f"{api.url}/{name}", "name": name, "id": name}
    if name in api.repos:
        return json_answer({"error": "You already created this model repo", **told}, status=409)
    api.repos[name] = Repository(name, private=said.get("visibility") == "private")
    return json_answer(told)


@ROUTES.add("POST", f"{MODEL}/branch/(?P<branch>[^/]+)")
def create_branch(api: Api, request: Request, repo: str, branch: str) -> Answer:
    start = request.json.get("startingPoint", "main")
    api.writable(request, repo).create_branch(branch, revision=start)
    return json_answer({})


@ROUTES.add("POST", f"{MODEL}/tag/(?P<revision>[^/]+)")
def create_tag(api: Api, request: Request, repo: str, revision: str) -> Answer:
    api.writable(request, repo).create_tag(request.json["tag"], revision=revision)
    return json_answer({})


@ROUTES.add("POST", f"{MODEL}/preupload/(?P<revision>[^/]+)")
def preupload(api: Api, request: Request, repo: str, revision: str) -> Answer:
    """By which way a file should come, and what is there now."""
    files = api.writable(request, repo).resolve(revision).files
    rows = []
    for said in request.json["files"]:
        large = (
            said["path"].endswith(LARGE_SUFFIXES)
            or said["size"] > REGULAR_LIMIT
            or b"\0" in base64.b64decode(said["sample"])
        )
        row = {"path": said["path"], "uploadMode": "lfs" if large else "regular"}
        now = files.get(said["path"])
        rows.append({**row, "shouldIgnore": False, "oid": now.etag if now else None})
    return json_answer({"files": rows})


@ROUTES.add("POST", f"/{REPO}\\.git/info/lfs/objects/batch")
def lfs_batch(api: Api, request: Request, repo: str) -> Answer:
    """https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md; what is here has no action"""
    objects = api.writable(request, repo).objects
    verify = {"href": f"{api.url}/{repo}.git/info/lfs/objects/verify"}
    rows = []
    for said in request.json["objects"]:
        row = {"oid": said["oid"], "size": said["size"]}
        if said["oid"] not in objects:
            upload = {"href": f"{api.signed(repo, said['oid'])}&size={said['size']}"}
            row["actions"] = {"upload": upload, "verify": verify}
        rows.append(row)
    return json_answer({"transfer": "basic", "objects": rows})


@ROUTES.add("POST", f"/{REPO}\\.git/info/lfs/objects/verify")
def lfs_verify(api: Api, request: Request, repo: str) -> Answer:
    stored = api.writable(request, repo).large_file(request.json["oid"])
    if len(stored.data) != request.json["size"]:
        raise HubError(400, "", "size differs from the object's")
    return json_answer({})


@ROUTES.add("PUT", f"/lfs/{REPO}/(?P<oid>[0-9a-f]{{64}})")
def put_object(api: Api, request: Request, repo: str, oid: str) -> Answer:
    api.check_key(request, oid)
    if int(request.query["size"][0]) != len(request.body):
        raise HubError(400, "", f"{len(request.body)} bytes came")
    api.repos[repo].store(oid, request.body)
    return Answer()


@ROUTES.add("POST", f"{MODEL}/commit/(?P<revision>[^/]+)")
def commit(api: Api, request: Request, repo: str, revision: str) -> Answer:
    found = api.writable(request, repo)
    if "create_pr" in request.query:
        raise HubError(501, "", "this Hub has no pull requests")
    header, *lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    made = found.commit(
        list(changes(found, lines)),
        branch=revision,
        title=header["value"]["summary"],
        message=header["value"].get("description", ""),
        parent=header["value"].get("parentCommit", ""),
    )
    told = {"commitUrl": f"{api.url}/{repo}/commit/{made.id}", "commitOid": made.id}
    return json_answer({"success": True, "hookOutput": "", **told})


def changes(repo: Repository, lines: list[dict[str, Any]]) -> Iterator[Change]:
    for line in lines:
        value, key = line["value"], line["key"]
        if key == "file":
            try:
                data = base64.b64decode(value["content"], validate=True)
            except binascii.Error as error:
                raise HubError(400, "", f"{value['path']}: {error}") from error
            yield Change(value["path"], StoredFile(data, large=False))
        elif key == "lfsFile":
            yield Change(value["path"], repo.large_file(value["oid"]))
        elif key in ("deletedFile", "deletedFolder"):
            end = "/" if key == "deletedFolder" else ""
            yield Change(value["path"].rstrip("/") + end, None)
        else:
            raise HubError(400, "", f"unknown key {key}")

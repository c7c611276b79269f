"""The real client against the local Hub; what the client does under each fault is in the docstrings
(huggingface_hub 2.4.0).
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    close_session,
    constants,
    hf_hub_download,
    is_offline_mode,
    snapshot_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from tests.conftest import tiny_pipeline
from tests.hub.card import card_problems
from tests.hub.client import use_hub
from tests.hub.server import Fault, Hub, Status, hub_server

REPO = "user/name"
WEIGHTS = bytes(range(256)) * 100
CARD = """---
license: mit
tags: [text-to-image]
model-index:
- name: name
  results:
  - task: {type: text-to-image}
    dataset: {name: shapes, type: shapes}
    metrics: [{type: fid, value: 1.5}]
---
# name
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A text and a binary file."""
    (tmp_path / "model" / "unet").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text('{"a": 1}')
    (tmp_path / "model" / "unet" / "model.safetensors").write_bytes(WEIGHTS)
    return tmp_path / "model"


@pytest.fixture
def pushed(hub: Hub, folder: Path) -> Hub:
    """A Hub with the folder in a public repository, which has seen nothing yet."""
    HfApi().create_repo(REPO)
    HfApi().upload_folder(repo_id=REPO, folder_path=folder)
    hub.seen.clear()
    return hub


def add_text(path: str = "a.txt", *, parent_commit: str | None = None) -> str:
    """Commit a small file; returns the commit's id."""
    operations = [CommitOperationAdd(path, b"text of " + path.encode())]
    info = HfApi().create_commit(
        REPO, operations, commit_message="add", parent_commit=parent_commit
    )
    return str(info.oid)


@contextmanager
def refused(status: int, kind: type[HfHubHTTPError] = HfHubHTTPError) -> Iterator[None]:
    """The block raises exactly this class, for an answer of this status."""
    with pytest.raises(HfHubHTTPError) as caught:
        yield
    assert (type(caught.value), caught.value.response.status_code) == (kind, status)


def test_create_repo_makes_a_private_repository_and_exist_ok_accepts_it(hub: Hub) -> None:
    HfApi().create_repo(REPO, private=True)
    HfApi().create_repo(REPO, exist_ok=True)
    assert hub.repos[REPO].private
    with refused(409):
        HfApi().create_repo(REPO)


def test_whoami_tells_the_user(hub: Hub) -> None:
    assert HfApi().whoami()["name"] == "user"
    with refused(401):
        HfApi(token="hf_wrong").whoami()


def test_an_uploaded_folder_comes_back_byte_for_byte(pushed: Hub) -> None:
    assert pushed.files(REPO) == {"config.json": b'{"a": 1}', "unet/model.safetensors": WEIGHTS}
    assert Path(hf_hub_download(REPO, "config.json")).read_bytes() == b'{"a": 1}'
    snapshot = Path(snapshot_download(REPO))
    assert (snapshot / "unet" / "model.safetensors").read_bytes() == WEIGHTS


def test_trees_tell_which_files_are_large(pushed: Hub) -> None:
    rows = {row.path: row for row in HfApi().list_repo_tree(REPO, recursive=True)}
    assert list(rows) == [".gitattributes", "config.json", "unet", "unet/model.safetensors"]
    large = [row.path for row in rows.values() if isinstance(row, RepoFile) and row.lfs]
    assert large == ["unet/model.safetensors"]
    (row,) = HfApi().get_paths_info(REPO, ["config.json"])
    assert row.path == "config.json"
    siblings = HfApi().model_info(REPO, files_metadata=True).siblings or []
    assert [s.size for s in siblings if s.rfilename == "config.json"] == [8]


def test_a_second_upload_of_the_same_folder_sends_no_object_and_commits_nothing(
    pushed: Hub, folder: Path
) -> None:
    head = pushed.repos[REPO].branches["main"]
    info = HfApi().upload_folder(repo_id=REPO, folder_path=folder)
    assert pushed.uploaded_bytes == 0
    assert info.oid == head
    assert pushed.asked("POST", "/commit/") == 0


def test_an_interrupted_push_keeps_the_objects_that_came(pushed: Hub, folder: Path) -> None:
    (folder / "unet" / "more.safetensors").write_bytes(b"more" * 100)
    pushed.faults.append(Fault("POST", "/commit/", 500))
    with refused(500):
        HfApi().upload_folder(repo_id=REPO, folder_path=folder)
    HfApi().upload_folder(repo_id=REPO, folder_path=folder)
    assert pushed.uploaded_bytes == 400
    assert pushed.files(REPO)["unet/more.safetensors"] == b"more" * 100


def test_history_branches_and_tags_keep_their_files(pushed: Hub) -> None:
    api = HfApi()
    api.create_tag(REPO, tag="v1")
    api.create_branch(REPO, branch="old")
    delete = [CommitOperationDelete("config.json"), CommitOperationDelete("unet/")]
    api.create_commit(REPO, delete, commit_message="less")
    assert set(pushed.files(REPO)) == set()
    assert set(pushed.files(REPO, "v1")) == {"config.json", "unet/model.safetensors"}
    refs = api.list_repo_refs(REPO)
    assert [ref.name for ref in refs.branches] == ["main", "old"]
    assert [ref.name for ref in refs.tags] == ["v1"]
    titles = [commit.title for commit in api.list_repo_commits(REPO)]
    assert titles == ["less", "Upload folder using huggingface_hub", "initial commit"]
    with refused(409):
        api.create_tag(REPO, tag="v1")
    api.create_branch(REPO, branch="old", exist_ok=True)


def test_a_missing_file_revision_and_repository_have_their_exceptions(pushed: Hub) -> None:
    with refused(404, RemoteEntryNotFoundError):
        hf_hub_download(REPO, "missing")
    with refused(404, RevisionNotFoundError):
        hf_hub_download(REPO, "config.json", revision="missing")
    with refused(404, RepositoryNotFoundError):
        hf_hub_download("user/missing", "config.json")


def test_without_a_token_nothing_can_be_written(pushed: Hub) -> None:
    with refused(401):
        HfApi(token=False).create_repo("user/other")
    with refused(401, RepositoryNotFoundError):
        HfApi(token=False).create_branch(REPO, branch="b")
    for token in (pushed.read_token, pushed.stranger_token):
        with refused(403):
            HfApi(token=token).create_branch(REPO, branch="b")


def test_a_private_repository_is_missing_to_strangers(pushed: Hub) -> None:
    pushed.repos[REPO].private = True
    with refused(401, RepositoryNotFoundError):
        hf_hub_download(REPO, "config.json", token=False)
    with refused(404, RepositoryNotFoundError):
        HfApi().model_info(REPO, token=pushed.stranger_token)
    assert Path(hf_hub_download(REPO, "config.json")).exists()


def test_a_gated_repository_says_so(pushed: Hub) -> None:
    pushed.repos[REPO].gated = True
    with refused(403, GatedRepoError):
        hf_hub_download(REPO, "config.json", token=pushed.stranger_token)


def test_tokens_go_to_the_hub_and_not_to_the_storage(pushed: Hub, folder: Path) -> None:
    (folder / "other.safetensors").write_bytes(b"other")
    HfApi().upload_folder(repo_id=REPO, folder_path=folder)
    snapshot_download(REPO)
    at_storage = [seen for seen in pushed.seen if seen.path.startswith("/lfs/")]
    assert {seen.method for seen in at_storage} == {"GET", "PUT"}
    assert not any(seen.authorization for seen in at_storage)
    assert all(
        seen.authorization == f"Bearer {pushed.token}"
        for seen in pushed.seen
        if seen not in at_storage
    )


def test_a_commit_on_another_parent_is_refused(pushed: Hub) -> None:
    """412: HfHubHTTPError at once, no retry."""
    first = add_text("a.txt")
    add_text("b.txt", parent_commit=first)
    with refused(412):
        add_text("c.txt", parent_commit=first)
    assert "c.txt" not in pushed.files(REPO)


@pytest.mark.parametrize("status", [401, 403, 409, 412, 429, 500, 503])
def test_a_commit_is_never_tried_again(pushed: Hub, waits: list[float], status: int) -> None:
    """create_commit posts once, whatever the status; 429 and 503 too, Retry-After or not."""
    pushed.faults.append(Fault("POST", "/commit/", status, retry_after=0))
    with refused(status):
        add_text()
    assert (pushed.asked("POST", "/commit/"), waits) == (1, [])


@pytest.mark.parametrize("kind", ["cut", "lost"])
def test_a_commit_whose_connection_breaks_is_not_tried_again(pushed: Hub, kind: Status) -> None:
    """httpx2's exception comes out as it is: no HfHubHTTPError, no OSError, no ConnectionError."""
    pushed.faults.append(Fault("POST", "/commit/", kind))
    with pytest.raises(httpx2.TransportError) as caught:
        add_text()
    assert not isinstance(caught.value, OSError | HfHubHTTPError)
    assert ("a.txt" in pushed.files(REPO)) == (kind == "lost")


def test_a_commit_that_is_not_answered_waits_for_good(pushed: Hub) -> None:
    """No timeout but a download's (10 s for HEAD, and between bytes): the server has to end it."""
    pushed.faults.append(Fault("POST", "/commit/", "stall", seconds=0.3))
    with pytest.raises(httpx2.RemoteProtocolError):
        add_text()


@pytest.mark.parametrize("status", [401, 403, 409, 412])
def test_no_step_is_tried_again_after_a_refusal(
    pushed: Hub, waits: list[float], status: int
) -> None:
    pushed.faults.append(Fault("POST", "/preupload/", status))
    with refused(status):
        add_text()
    assert waits == []


@pytest.mark.parametrize("status", [429, 500, 503, "cut"])
@pytest.mark.parametrize(
    ("method", "step"),
    [("POST", "/preupload/"), ("POST", "/objects/batch"), ("PUT", "/lfs/"), ("POST", "/verify")],
)
def test_every_step_before_the_commit_is_tried_again(
    pushed: Hub, folder: Path, waits: list[float], method: str, step: str, status: Status
) -> None:
    """Up to five times more, after 1, 2, 4, 8, 8 s; Retry-After replaces that, plus 1 s."""
    (folder / "other.safetensors").write_bytes(b"other" * 100)
    pushed.faults.append(Fault(method, step, status, times=2))
    HfApi().upload_folder(repo_id=REPO, folder_path=folder)
    assert waits == [1, 2]
    assert pushed.files(REPO)["other.safetensors"] == b"other" * 100


def test_retry_after_is_kept_with_a_second_more(pushed: Hub, waits: list[float]) -> None:
    pushed.faults.append(Fault("POST", "/preupload/", 429, retry_after=0))
    pushed.faults.append(Fault("POST", "/preupload/", 503, retry_after=3))
    add_text()
    assert waits == [1, 4]


def test_the_client_gives_up_after_six_attempts(
    pushed: Hub, folder: Path, waits: list[float]
) -> None:
    """23 s in all; an error of an upload of one object is a RuntimeError around the real one."""
    pushed.faults.append(Fault("POST", "/preupload/", 500, times=6))
    with refused(500):
        add_text()
    assert waits == [1, 2, 4, 8, 8]
    (folder / "other.safetensors").write_bytes(b"other")
    pushed.faults.append(Fault("PUT", "/lfs/", 500, times=6))
    with pytest.raises(RuntimeError, match=r"other\.safetensors") as caught:
        HfApi().upload_folder(repo_id=REPO, folder_path=folder)
    assert isinstance(caught.value.__cause__, HfHubHTTPError)
    assert len(pushed.faults) == 0


@pytest.mark.parametrize("status", [429, 500, 503])
def test_creating_and_asking_are_never_tried_again(
    hub: Hub, waits: list[float], status: int
) -> None:
    """create_repo, repo_info, create_branch, create_tag, list_repo_refs, whoami: one attempt."""
    hub.faults.append(Fault("POST", "/repos/create", status))
    with refused(status):
        HfApi().create_repo(REPO)
    HfApi().create_repo(REPO)
    calls: dict[str, Callable[[], object]] = {
        "/branch/": lambda: HfApi().create_branch(REPO, branch="b"),
        "/tag/": lambda: HfApi().create_tag(REPO, tag="t"),
        "/refs": lambda: HfApi().list_repo_refs(REPO),
        "/api/models/": lambda: HfApi().model_info(REPO),
    }
    for path, call in calls.items():
        hub.faults.append(Fault("", path, status))
        with refused(status):
            call()
    assert waits == []


def test_exist_ok_takes_a_403_for_an_existing_repository(pushed: Hub) -> None:
    """With exist_ok, 401, 402 and 403 are forgiven where the repository can be seen."""
    HfApi().create_repo(REPO, exist_ok=True, token=pushed.read_token)
    with refused(403):
        HfApi().create_repo("user/new", exist_ok=True, token=pushed.read_token)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_the_head_of_a_download_is_tried_again(
    pushed: Hub, waits: list[float], status: int
) -> None:
    """Once without waiting (for a quick fall back on the cache), then as every step of a push."""
    pushed.faults.append(Fault("HEAD", "/resolve/", status, times=3))
    assert Path(hf_hub_download(REPO, "config.json")).exists()
    assert waits == [1, 2]


@pytest.mark.parametrize("status", [403, 409])
def test_a_refused_head_is_a_missing_local_entry(pushed: Hub, status: int) -> None:
    """LocalEntryNotFoundError, an OSError ("check your connection"); the status is its cause's."""
    pushed.faults.append(Fault("HEAD", "/resolve/", status))
    with pytest.raises(LocalEntryNotFoundError) as caught:
        hf_hub_download(REPO, "config.json")
    cause = caught.value.__cause__
    assert isinstance(cause, HfHubHTTPError)
    assert cause.response.status_code == status


def test_a_wrong_token_of_a_download_is_a_401(pushed: Hub) -> None:
    with refused(401):
        hf_hub_download(REPO, "config.json", token="hf_wrong")


@pytest.mark.parametrize(("chunk", "resumed"), [(10 * 2**20, ""), (1000, "bytes=12000-")])
def test_a_download_cut_halfway_goes_on_after_the_last_whole_chunk(
    pushed: Hub, waits: list[float], monkeypatch: pytest.MonkeyPatch, chunk: int, resumed: str
) -> None:
    """Chunks have 10 MiB, so a smaller file starts anew. Each time after 1 s, until six attempts
    in a row brought no chunk; then httpx2.RemoteProtocolError comes out.
    """
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", chunk)
    pushed.faults.append(Fault("GET", "/lfs/", "cut"))
    got = hf_hub_download(REPO, "unet/model.safetensors")
    assert Path(got).read_bytes() == WEIGHTS
    assert waits == [1]
    ranges = [seen.byte_range for seen in pushed.seen if seen.path.startswith("/lfs/")]
    assert ranges == ["", resumed]


def test_a_head_cut_off_is_not_tried_again(pushed: Hub) -> None:
    pushed.faults.append(Fault("HEAD", "/resolve/", "cut"))
    with pytest.raises(httpx2.RemoteProtocolError):
        hf_hub_download(REPO, "config.json")


def test_a_download_that_the_server_refuses_is_not_tried_again(
    pushed: Hub, waits: list[float]
) -> None:
    """The GET (not its HEAD) is tried again after 408 and 429 only."""
    pushed.faults.append(Fault("GET", "/resolve/", 429))
    assert Path(hf_hub_download(REPO, "config.json")).exists()
    assert waits == [1]
    pushed.faults.append(Fault("GET", "/lfs/", 503))
    with refused(503):
        hf_hub_download(REPO, "unet/model.safetensors")


def test_a_snapshot_falls_back_on_the_cache_without_a_word(pushed: Hub) -> None:
    """Any HTTP error of its first question, and a whole snapshot is here: that one is returned."""
    first = snapshot_download(REPO)
    add_text()
    pushed.faults.append(Fault("GET", "/api/models/", 500))
    assert snapshot_download(REPO) == first
    assert snapshot_download(REPO) != first


def test_a_card_is_checked(hub: Hub) -> None:
    ModelCard(CARD).validate()
    with pytest.raises(ValueError, match="license"):
        ModelCard(CARD.replace("license: mit\n", "")).validate()


@pytest.mark.parametrize(
    ("good", "bad", "problem"),
    [
        ("value: 1.5", "verified: no", "results[0].metrics[0].value"),
        ("type: shapes", "kind: shapes", "results[0].dataset.type"),
        ("[{type: fid, value: 1.5}]", "[]", "results[0].metrics"),
        ("- name: name", "- title: name", "model-index[0].name"),
        ("[text-to-image]", "[1]", "tags"),
        ("license: mit", "license: [", "bad YAML"),
    ],
)
def test_a_card_with_one_wrong_line_has_one_problem(good: str, bad: str, problem: str) -> None:
    assert card_problems(CARD) == ([], [])
    errors, _ = card_problems(CARD.replace(good, bad, 1))
    assert len(errors) == 1
    assert problem in errors[0]


def test_a_bad_card_stops_a_push_before_anything_is_sent(pushed: Hub, folder: Path) -> None:
    (folder / "README.md").write_text(CARD.replace("license: mit", "license: []"))
    with pytest.raises(ValueError, match="license"):
        HfApi().upload_folder(repo_id=REPO, folder_path=folder)
    assert pushed.requests == ["POST /api/validate-yaml"]


def test_diffusers_loads_from_the_hub_what_was_pushed(hub: Hub, tmp_path: Path) -> None:
    pipeline = tiny_pipeline("sd1")
    pipeline.save_pretrained(tmp_path / "tiny")
    HfApi().create_repo(REPO)
    HfApi().upload_folder(repo_id=REPO, folder_path=tmp_path / "tiny")
    loaded = StableDiffusionPipeline.from_pretrained(REPO)
    for name in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(pipeline, name).state_dict(), getattr(loaded, name).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    one = type(pipeline.unet).from_pretrained(REPO, subfolder="unet")
    assert torch.equal(one.conv_in.weight, pipeline.unet.conv_in.weight)
    text = type(pipeline.text_encoder).from_pretrained(REPO, subfolder="text_encoder")
    assert len(text.state_dict()) == len(pipeline.text_encoder.state_dict())


def test_a_subprocess_talks_to_the_hub(pushed: Hub, hub_environment: dict[str, str]) -> None:
    code = "from huggingface_hub import snapshot_download as s; print(s('user/name'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **hub_environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (Path(done.stdout.strip()) / "unet" / "model.safetensors").read_bytes() == WEIGHTS


def copies(name: str) -> dict[str, object]:
    """Value of a global in every module of the client's and its users that has it."""
    kept = ("huggingface_hub", "diffusers", "transformers")
    modules = [(key, vars(m)) for key, m in list(sys.modules.items()) if key.startswith(kept)]
    return {key: names[name] for key, names in modules if name in names}


def test_after_a_hub_this_process_is_as_it_was(tmp_path: Path) -> None:
    names = ("HF_HUB_OFFLINE", "ENDPOINT", "HF_HUB_CACHE", "HF_HUB_DISABLE_XET")
    before = {name: copies(name) for name in names}
    with hub_server() as server, pytest.MonkeyPatch.context() as patch:
        use_hub(server, tmp_path, patch)
        assert set(copies("HF_HUB_OFFLINE").values()) == {False}
        assert HfApi().whoami()["name"] == "user"
        close_session()
    assert {name: copies(name) for name in names} == before
    assert is_offline_mode()
    assert HfApi().endpoint == "https://huggingface.co"


def test_a_client_killed_in_a_push_leaves_nothing(pushed: Hub) -> None:
    """Half a body, then the connection's end: not a commit of the lines that came."""
    lines = [
        {"key": "header", "value": {"summary": "half"}},
        {"key": "file", "value": {"path": "half.txt", "content": "", "encoding": "base64"}},
    ]
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    head = (
        f"POST /api/models/{REPO}/commit/main HTTP/1.1\r\nHost: hub\r\n"
        f"Authorization: Bearer {pushed.token}\r\nContent-Length: {len(body) + 99}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", int(pushed.url.rpartition(":")[2]))) as client:
        client.sendall(head.encode() + body)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert "half.txt" not in pushed.files(REPO)

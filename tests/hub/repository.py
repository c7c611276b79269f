"""What a model repository holds: files, commits, branches and tags, large objects.

Knows nothing of HTTP, tokens or JSON bodies; refusals carry the status that the Hub gives them.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

FIRST_COMMIT = datetime(2026, 1, 1, tzinfo=UTC)
ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


class HubError(Exception):
    """A refusal: status, the Hub's X-Error-Code (may be empty), a sentence."""

    def __init__(self, status: int, code: str, message: str, *, commit: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.commit = status, code, message, commit


def git_oid(data: bytes) -> str:
    """What git calls a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class StoredFile:
    """Content of one path; a large one is in git only as an LFS pointer."""

    data: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        """https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md#the-pointer"""
        lines = ["version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.sha256}"]
        return "\n".join([*lines, f"size {len(self.data)}", ""]).encode()

    @property
    def oid(self) -> str:
        """Name of the git blob."""
        return git_oid(self.pointer if self.large else self.data)

    @property
    def etag(self) -> str:
        """What the client compares a local file with, and names its blobs by."""
        return self.sha256 if self.large else self.oid


@dataclass(frozen=True)
class Commit:
    """A state of all files. `parent` is empty for the first one."""

    id: str
    parent: str
    title: str
    message: str
    date: datetime
    files: dict[str, StoredFile]


@dataclass(frozen=True)
class Change:
    """One line of a commit: new content, or with None a removal; a folder's path ends with "/"."""

    path: str
    content: StoredFile | None


@dataclass
class Repository:
    """A model repository; it starts as the Hub's do, with one commit that holds .gitattributes."""

    id: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # by SHA-256; no commit need name them

    def __post_init__(self) -> None:
        first = {".gitattributes": StoredFile(ATTRIBUTES, large=False)}
        self.branches["main"] = self._add("", title="initial commit", message="", files=first).id

    def resolve(self, revision: str) -> Commit:
        """Commit of a branch, a tag, an id or the beginning of one."""
        named = self.branches.get(revision) or self.tags.get(revision)
        begins = [c for c in self.commits if len(revision) >= 5 and c.startswith(revision)]
        if not named and len(begins) != 1:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return self.commits[named or begins[0]]

    def history(self, revision: str) -> list[Commit]:
        """Newest first."""
        chain = [self.resolve(revision)]
        while parent := chain[-1].parent:
            chain.append(self.commits[parent])
        return chain

    def file(self, path: str, *, revision: str) -> StoredFile:
        commit = self.resolve(revision)
        if path not in commit.files:
            raise HubError(404, "EntryNotFound", "Entry not found", commit=commit.id)
        return commit.files[path]

    def commit(
        self, changes: Iterable[Change], *, branch: str, title: str, message: str, parent: str
    ) -> Commit:
        """Add a commit to a branch; with `parent`, only if the branch is still there."""
        if branch not in self.branches:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        head = self.commits[self.branches[branch]]
        if parent and not head.id.startswith(parent):
            raise HubError(412, "", "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for change in changes:
            if change.content is not None:
                files[change.path] = change.content
                continue
            gone = {p for p in files if p == change.path or _is_below(p, change.path)}
            if not gone:
                raise HubError(404, "EntryNotFound", "A file with this name doesn't exist")
            files = {path: kept for path, kept in files.items() if path not in gone}
        commit = self._add(head.id, title=title, message=message, files=files)
        self.branches[branch] = commit.id
        return commit

    def create_branch(self, name: str, *, revision: str) -> None:
        if name in self.branches:
            raise HubError(409, "", f"Reference already exists: {name}")
        self.branches[name] = self.resolve(revision).id

    def create_tag(self, name: str, *, revision: str) -> None:
        if name in self.tags:
            raise HubError(409, "", f"Tag reference exists already: {name}")
        self.tags[name] = self.resolve(revision).id

    def store(self, oid: str, data: bytes) -> None:
        """Keep a large object, if it is what it says."""
        if (is_now := hashlib.sha256(data).hexdigest()) != oid:
            raise HubError(400, "", f"the object's SHA-256 is {is_now}, not {oid}")
        self.objects[oid] = data

    def large_file(self, oid: str) -> StoredFile:
        if oid not in self.objects:
            raise HubError(400, "", f"LFS pointer pointed to a file that does not exist: {oid}")
        return StoredFile(self.objects[oid], large=True)

    def _add(
        self, parent: str, *, title: str, message: str, files: dict[str, StoredFile]
    ) -> Commit:
        number = len(self.commits)
        names = [f"{path} {stored.oid}" for path, stored in sorted(files.items())]
        text = "\n".join([self.id, parent, title, str(number), *names])
        date = FIRST_COMMIT + timedelta(minutes=number)
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, message, date, files)
        return self.commits[oid]


def _is_below(path: str, folder: str) -> bool:
    return folder.endswith("/") and path.startswith(folder)

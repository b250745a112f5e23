"""A Hugging Face Hub on this machine, for tests that run the real client: pull, push, and faults."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.hub_storage import TOKENS, Commit, File, Repository, Storage, xet_hashes

Fault = int | Literal["reset", "hang", "cut", "lost", "flip"] | Callable[[], object]
"""What goes wrong: an HTTP status instead of the answer, a connection that breaks, no answer at all, half of a file, an
answer that is lost after the work was done, a file with a wrong byte; or what happens just before the answer."""


class LocalHub:
    """Serves repositories from memory to ``HF_ENDPOINT=hub.url``; use it as a context manager.

    Args:
        xet: A folder for Xet's storage, to which large files then go; otherwise they go through LFS.
        port: The port; 0 means any free port.

    Attributes:
        requests: The requests so far, each ``(method, path)``.
        faults: Repository id -> the fault of each of its files.
        storage: The repositories.
    """

    page = 3
    """Entries in one answer to a question for a listing."""

    def __init__(self, xet: Path | None = None, port: int = 0) -> None:
        self.requests: list[tuple[str, str]] = []
        self.faults: dict[str, Fault] = {}
        self.storage = Storage()
        self.xet = xet
        self._planned: list[tuple[str, Fault, int]] = []
        self._stopping = threading.Event()
        self._connections: set[socket.socket] = set()
        hub = self

        class Handler(_Handler):
            def __init__(self, *args: object) -> None:
                self.hub = hub
                super().__init__(*args)  # type: ignore[arg-type]

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        """What to set HF_ENDPOINT to."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True)

    def add(self, repo_id: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Put files into a branch, and return the commit; a new repository is public."""
        with self.storage.lock:
            if repo_id not in self.storage.repositories:
                self.storage.create(repo_id)
            old = self.storage.repositories[repo_id].resolve(branch)
            new = {name: File.of(name, content) for name, content in files.items()}
            self.storage.large.update({file.sha256: files[name] for name, file in new.items() if file.large})
            return self.storage.commit(repo_id, branch, "add", {**(old.files if old else {}), **new}).id

    def repository(self, repo_id: str) -> Repository:
        """Return the current state of a repository."""
        return self.storage.repositories[repo_id]

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Return the files of a revision; files that came through LFS or git have their content."""
        commit = self.repository(repo_id).resolve(revision)
        assert commit is not None, f"{repo_id} has no revision {revision}"
        return {
            name: self.storage.large.get(f.sha256, b"") if f.large else f.content or b""
            for name, f in commit.files.items()
        }

    def fail(self, request: str, fault: Fault, times: int = 1) -> None:
        """Make the next requests fail whose ``METHOD /path`` matches a regular expression."""
        self._planned.append((request, fault, times))

    def heal(self) -> None:
        """Remove all faults."""
        self._planned.clear()
        self.faults.clear()

    def fault(self, request: str) -> Fault | None:
        """Return the fault of a request; None if it has none."""
        with self.storage.lock:
            for i, (pattern, fault, times) in enumerate(self._planned):
                if times and re.search(pattern, request):
                    self._planned[i] = (pattern, fault, times - 1)
                    return fault
        files = re.match(r"\w+ /(?!api/)([^/]+/[^/]+)/(?:resolve|lfs)/", request)
        return self.faults.get(files[1]) if files else None

    def wait(self) -> None:
        """Stay silent until the hub stops."""
        self._stopping.wait()

    def connected(self, connection: socket.socket) -> None:
        """Store an open connection, which is closed when the hub stops."""
        self._connections.add(connection)

    def disconnected(self, connection: socket.socket) -> None:
        """Remove a closed connection."""
        self._connections.discard(connection)

    def stop(self) -> None:
        """Stop listening, and close the connections that clients keep open."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._server.shutdown()
        for connection in list(self._connections):
            _close(connection)
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> LocalHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side was first
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


class _Stop(Exception):  # noqa: N818  # no error of the program
    """Raised when a request has been answered."""


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body of each answer waits 40 ms for the client to confirm the headers

    def setup(self) -> None:
        super().setup()
        self.hub.connected(self.connection)

    def finish(self) -> None:
        self.hub.disconnected(self.connection)
        super().finish()

    def do_HEAD(self) -> None:
        self._dispatch()

    def do_GET(self) -> None:
        self._dispatch()

    def do_POST(self) -> None:
        self._dispatch()

    def do_PUT(self) -> None:
        self._dispatch()

    def do_DELETE(self) -> None:
        self._dispatch()

    def _dispatch(self) -> None:
        url = urlsplit(self.path)
        self.hub.requests.append((self.command, url.path))
        self._query = parse_qs(url.query)
        self._body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._fault = self.hub.fault(f"{self.command} {url.path}")
        try:
            if callable(self._fault):
                self._fault()
            elif self._fault not in (None, "cut", "lost", "flip"):
                self._fail(self._fault)
            for pattern, method in _ROUTES:
                command, _, path = pattern.partition(" ")
                if self.command in command.split("|") and (parts := re.fullmatch(path, url.path)):
                    method(self, **{key: unquote(value) for key, value in parts.groupdict().items() if value})
            self._answer(404)
        except _Stop:
            pass

    # What every answer needs

    def _answer(self, status: int, headers: dict[str, str] | None = None, data: bytes = b"") -> None:
        if self._fault == "lost":
            self._fail("reset")
        length = {"Content-Length": str(len(data))} | (headers or {})
        if self._fault == "flip" and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if self._fault == "cut" and data:
            self.close_connection, data = True, data[: len(data) // 2]
        self.send_response(status)
        for key, value in length.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        raise _Stop

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        self._answer(status, {"Content-Type": "application/json", **headers}, json.dumps(value).encode())

    def _refuse(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        self._json(
            {"error": message or code},
            status,
            **({"X-Error-Code": code} if code else {}),
            **({"X-Error-Message": message} if message else {}),
            **{key.replace("_", "-"): value for key, value in headers.items()},
        )

    def _fail(self, fault: Fault | None) -> None:
        if isinstance(fault, int):
            # The connection stays open, as the answer says: the client's next request would otherwise find it closed.
            self._fault = None
            self._refuse(fault, message=f"injected {fault}")
        self.close_connection = True
        if fault == "hang":
            self.hub.wait()
        else:  # closing with this option set sends a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        raise _Stop

    def _who(self) -> tuple[str, str]:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            self._refuse(401, message="Invalid credentials in Authorization header")
        return TOKENS.get(token, ("", ""))

    def _repository(self, repo: str, *, write: bool = False) -> Repository:
        name, role = self._who()
        repository = self.hub.storage.repositories.get(repo)
        mine = bool(name) and repo.removeprefix("spaces/").startswith(f"{name}/")
        if repository is None or (repository.private and not mine):
            self._refuse(404 if name else 401, "RepoNotFound", "Repository not found")
        elif write and not (mine and role == "write"):
            self._refuse(403 if name else 401, message="You don't have the required permissions")
        assert repository is not None
        return repository

    def _commit(self, repo: str, revision: str, *, write: bool = False) -> Commit:
        commit = self._repository(repo, write=write).resolve(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        assert commit is not None
        return commit

    # Repositories, branches, tags

    def whoami(self) -> None:
        name, role = self._who()
        if not name:
            self._refuse(401, message="Invalid username or password.")
        self._json({"type": "user", "name": name, "auth": {"accessToken": {"role": role}}, "orgs": []})

    def create(self) -> None:
        name, role = self._who()
        asked = json.loads(self._body)
        owner = asked.get("organization") or name
        repo_id = f"{'spaces/' if asked.get('type') == 'space' else ''}{owner}/{asked['name']}"
        if not name or owner != name or role != "write":
            self._refuse(403 if name else 401, message="You don't have the rights to create a model")
        with self.hub.storage.lock:
            there = repo_id in self.hub.storage.repositories
            if not there:
                self.hub.storage.create(repo_id, private=asked.get("visibility") == "private")
        self._json({"url": f"{self.hub.url}/{repo_id}", "name": repo_id.removeprefix("spaces/")}, 409 if there else 200)

    def describe(self, repo: str, revision: str = "main") -> None:
        commit = self._commit(repo, revision)
        siblings = [{"rfilename": name} for name in commit.files]
        repo_id = repo.removeprefix("spaces/")
        self._json({"id": repo_id, "sha": commit.id, "private": self._repository(repo).private, "siblings": siblings})

    def refs(self, repo: str) -> None:
        repository = self._repository(repo)

        def listed(kind: str, names: dict[str, str]) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": sha} for n, sha in names.items()]

        branches, tags = listed("heads", repository.branches), listed("tags", repository.tags)
        self._json({"branches": branches, "tags": tags, "converts": []})

    def branch(self, repo: str, revision: str) -> None:
        start = json.loads(self._body or b"{}").get("startingPoint", "main")
        with self.hub.storage.lock:
            repository = self._repository(repo, write=True)
            if revision in repository.branches:
                self._refuse(409, message=f"Reference already exists: {revision}")
            repository.branches[revision] = self._commit(repo, start).id
        self._json({})

    def tag(self, repo: str, revision: str) -> None:
        name = json.loads(self._body)["tag"]
        with self.hub.storage.lock:
            repository = self._repository(repo, write=True)
            if name in repository.tags:
                self._refuse(409, message=f"Tag already exists: {name}")
            repository.tags[name] = self._commit(repo, revision).id
        self._json({})

    def history(self, repo: str, revision: str) -> None:
        commits = [
            {"id": c.id, "title": c.title, "message": "", "date": "2026-01-01T00:00:00.000Z", "authors": []}
            for c in self._repository(repo).history(self._commit(repo, revision))
        ]
        self._pages(commits)

    # Files: what there is, and pulling

    def tree(self, repo: str, revision: str) -> None:
        self._pages([self._entry(name, f) for name, f in sorted(self._commit(repo, revision).files.items())])

    def paths(self, repo: str, revision: str) -> None:
        files = self._commit(repo, revision).files
        asked = parse_qs(self._body.decode()).get("paths", [])
        self._json([self._entry(name, files[name]) for name in asked if name in files])

    def _entry(self, name: str, file: File) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": name, "size": file.size, "oid": file.blob_id}
        if file.large:
            entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 130}
            if self.hub.xet:
                entry["xetHash"] = xet_hashes(self.hub.xet)[file.sha256]
        return entry

    def _pages(self, entries: list[dict[str, Any]]) -> None:
        start = int(self._query.get("cursor", ["0"])[0])
        end = start + self.hub.page
        path = urlsplit(self.path).path
        further = {"Link": f'<{self.hub.url}{path}?cursor={end}>; rel="next"'} if end < len(entries) else {}
        self._json(entries[start:end], **further)

    def resolve(self, repo: str, revision: str, file: str) -> None:
        commit = self._commit(repo, revision)
        if file not in commit.files:
            self._refuse(404, "EntryNotFound", "Entry not found", X_Repo_Commit=commit.id)
        found = commit.files[file]
        headers = {"X-Repo-Commit": commit.id, "ETag": f'"{found.etag}"'}
        if not found.large:
            return self._send(found.content or b"", headers)
        headers |= {"X-Linked-ETag": f'"{found.sha256}"', "X-Linked-Size": str(found.size)}
        if self.hub.xet:
            headers["X-Xet-Hash"] = xet_hashes(self.hub.xet)[found.sha256]
            headers["Link"] = f'<{self.hub.url}/api/models/{repo}/xet-read-token/{commit.id}>; rel="xet-auth"'
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")  # the client follows, as it does a link to a CDN
        self._answer(302, headers | {"Location": f"{elsewhere}/{repo}/lfs/{found.sha256}"})

    def download(self, repo: str, oid: str) -> None:
        self._send(self.hub.storage.large[oid], {"ETag": f'"{oid}"'})

    def _send(self, data: bytes, headers: dict[str, str]) -> None:
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part is None:
            return self._answer(200, headers, data)
        start, end = int(part[1]), int(part[2] or len(data) - 1) + 1
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        return self._answer(206, headers, data[start:end])

    # Pushing

    def validate(self) -> None:
        valid = "license: no-such-license" not in json.loads(self._body)["content"]
        problem = {} if valid else {"errors": [{"message": '"license" must be one of [apache-2.0, mit, ...]'}]}
        self._json({"warnings": [], **problem}, 200 if valid else 400)

    def preupload(self, repo: str, revision: str) -> None:
        there = self._commit(repo, revision, write=True).files
        answers = []
        for asked in json.loads(self._body)["files"]:
            name = asked["path"]
            old, large = there.get(name), File.of(name, b"x" * bool(asked["size"])).large
            oid = None if old is None else old.etag
            mode = "lfs" if large else "regular"
            answers.append({"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": answers})

    def batch(self, repo: str) -> None:
        self._repository(repo, write=True)
        objects = []
        for asked in json.loads(self._body)["objects"]:
            upload = {"href": f"{self.hub.url}/{repo}/lfs/{asked['oid']}"}
            verify = {"href": f"{self.hub.url}/{repo}/verify"}
            there = asked["oid"] in self.hub.storage.large
            objects.append({**asked, **({} if there else {"actions": {"upload": upload, "verify": verify}})})
        self._json({"transfer": "basic", "objects": objects})

    def upload(self, repo: str, oid: str) -> None:
        if hashlib.sha256(self._body).hexdigest() != oid:
            self._refuse(400, message="the content has another SHA-256")
        self.hub.storage.large[oid] = self._body
        self._answer(200)

    def verify(self, repo: str) -> None:
        asked = json.loads(self._body)
        content = self.hub.storage.large.get(asked["oid"])
        self._answer(200 if content is not None and len(content) == asked["size"] else 404)

    def xet_token(self, repo: str, kind: str, revision: str) -> None:
        self._repository(repo, write=kind == "write")
        expiry, url = int(time.time()) + 3600, f"local://{self.hub.xet}"
        headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": "token", "X-Xet-Token-Expiration": str(expiry)}
        self._json({"casUrl": url, "accessToken": "token", "exp": expiry}, **headers)

    def commit(self, repo: str, revision: str) -> None:
        header, *operations = (json.loads(line) for line in self._body.splitlines())
        with self.hub.storage.lock:
            head = self._commit(repo, revision, write=True)
            expected = header["value"].get("parentCommit")
            if revision not in self._repository(repo).branches:
                self._refuse(404, "RevisionNotFound", f"no branch {revision}")
            if expected and expected != head.id:
                self._refuse(412, message="A commit has happened since. Please refresh and try again.")
            files = dict(head.files)
            for operation in operations:
                value = operation["value"]
                if operation["key"] == "file":
                    files[value["path"]] = File.of(value["path"], base64.b64decode(value["content"]))
                elif operation["key"] == "lfsFile":
                    self._check_uploaded(value["oid"])
                    files[value["path"]] = File(value["oid"], value["size"], None, True)
                elif operation["key"] == "deletedFile":
                    del files[value["path"]]
            new = self.hub.storage.commit(repo, revision, header["value"]["summary"], files)
        self._json({"commitOid": new.id, "commitUrl": f"{self.hub.url}/{repo}/commit/{new.id}"})

    def _check_uploaded(self, oid: str) -> None:
        if oid not in (xet_hashes(self.hub.xet) if self.hub.xet else self.hub.storage.large):
            self._refuse(400, message=f"LFS object {oid} was not uploaded")

    def log_message(self, *_: object) -> None:
        """Print nothing; requests are in ``LocalHub.requests``."""


_REPO, _REVISION = r"(?P<repo>(?:spaces/)?[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
_MODEL = f"/api/(?:models/)?{_REPO}"
"""Spaces are repositories whose names begin with spaces/, as their addresses do."""
_ROUTES: list[tuple[str, Callable[..., None]]] = [
    ("GET /api/whoami-v2", _Handler.whoami),
    ("POST /api/repos/create", _Handler.create),
    ("POST /api/validate-yaml", _Handler.validate),
    (f"GET {_MODEL}(?:/revision/{_REVISION})?", _Handler.describe),
    (f"GET {_MODEL}/refs", _Handler.refs),
    (f"POST {_MODEL}/branch/{_REVISION}", _Handler.branch),
    (f"POST {_MODEL}/tag/{_REVISION}", _Handler.tag),
    (f"GET {_MODEL}/commits/{_REVISION}", _Handler.history),
    (f"GET {_MODEL}/tree/{_REVISION}", _Handler.tree),
    (f"POST {_MODEL}/paths-info/{_REVISION}", _Handler.paths),
    (f"POST {_MODEL}/preupload/{_REVISION}", _Handler.preupload),
    (f"POST {_MODEL}/commit/{_REVISION}", _Handler.commit),
    (f"GET {_MODEL}/xet-(?P<kind>read|write)-token/{_REVISION}", _Handler.xet_token),
    (f"POST /{_REPO}.git/info/lfs/objects/batch", _Handler.batch),
    (f"PUT /{_REPO}/lfs/(?P<oid>[0-9a-f]+)", _Handler.upload),
    (f"GET|HEAD /{_REPO}/lfs/(?P<oid>[0-9a-f]+)", _Handler.download),
    (f"POST /{_REPO}/verify", _Handler.verify),
    (f"GET|HEAD /{_REPO}/resolve/{_REVISION}/(?P<file>.+)", _Handler.resolve),
]

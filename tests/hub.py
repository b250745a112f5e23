"""A Hugging Face Hub on this machine, for tests that run the real client: downloads, and what can go wrong."""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import unquote, urlsplit

Fault = int | Literal["reset", "hang", "cut"]
"""What a repository answers instead: an HTTP status, a connection that breaks, nothing at all, half of each file."""


class LocalHub:
    """Serves repositories from memory to ``HF_ENDPOINT=hub.url``; use it as a context manager.

    Attributes:
        requests: What was asked so far, each ``(method, path)``.
        faults: Repository id to what goes wrong with it.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.faults: dict[str, Fault] = {}
        self._files: dict[str, dict[str, bytes]] = {}
        self._stopping = threading.Event()
        self._connections: set[socket.socket] = set()
        hub = self

        class Handler(_Handler):
            def __init__(self, *args: object) -> None:
                self.hub = hub
                super().__init__(*args)  # type: ignore[arg-type]

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """What to set HF_ENDPOINT to."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, repo_id: str, files: dict[str, bytes]) -> str:
        """Put files into a repository's branch main; returns its commit."""
        self._files.setdefault(repo_id, {}).update(files)
        return self.commit(repo_id)

    def files(self, repo_id: str) -> dict[str, bytes] | None:
        """A repository's files by name, or None where there is no such repository."""
        return self._files.get(repo_id)

    def commit(self, repo_id: str) -> str:
        """A repository's newest commit: 40 hexadecimal digits that follow from its files."""
        content = b"".join(name.encode() + data for name, data in sorted(self._files[repo_id].items()))
        return hashlib.sha1(content).hexdigest()

    def wait(self) -> None:
        """Stay silent until the hub stops."""
        self._stopping.wait()

    def connected(self, connection: socket.socket) -> None:
        """Remember an open connection, to be closed with the hub."""
        self._connections.add(connection)

    def disconnected(self, connection: socket.socket) -> None:
        """Forget a closed connection."""
        self._connections.discard(connection)

    def __enter__(self) -> LocalHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        for connection in list(self._connections):  # clients keep them open
            connection.close()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.hub.connected(self.connection)

    def finish(self) -> None:
        self.hub.disconnected(self.connection)
        super().finish()

    def do_HEAD(self) -> None:
        self._resolve(body=False)

    def do_GET(self) -> None:
        self._resolve(body=True)

    def _resolve(self, *, body: bool) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path))
        parts = re.fullmatch(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", path)
        if parts is None:
            return self._answer(404)
        repo, revision, name = (unquote(part) for part in parts.groups())
        fault = self.hub.faults.get(repo)
        if fault not in (None, "cut"):
            return self._fail(fault)
        files = self.hub.files(repo)
        if files is None:
            return self._answer(404, {"X-Error-Code": "RepoNotFound"})
        commit = self.hub.commit(repo)
        if revision not in ("main", commit):
            return self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        if name not in files:
            return self._answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        data = files[name]
        headers = {
            "Content-Length": str(len(data)),
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": commit,
        }
        if fault == "cut":
            self.close_connection, data = True, data[: len(data) // 2]
        return self._answer(200, headers, data if body else b"")

    def _answer(self, status: int, headers: dict[str, str] | None = None, data: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {"Content-Length": "0", **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def _fail(self, fault: Fault | None) -> None:
        self.close_connection = True
        if isinstance(fault, int):
            self._answer(fault)
        elif fault == "hang":
            self.hub.wait()
        else:  # closing with this option set sends a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal; requests are in ``LocalHub.requests``."""

"""Files that visitors send: each on its own, without its name, and gone as soon as it is answered.

Gradio's own uploads lie under the hash of their content until a timer or the program's end removes them. Two visitors
who send the same file would share it, so that it could not be deleted after the first one's answer.
"""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cvrnet.demo.answering import Upload
from cvrnet.errors import UserError

MOST_FILES = 200
"""In one upload."""
EXPIRY = 600.0
"""Seconds after which a file is deleted that nobody asked about."""
_LONGEST_NAME = 120


@dataclass(frozen=True)
class _Sent:
    name: str
    at: float


class Uploads:
    """The files that wait for their answer.

    Args:
        folder: Where they lie; empty, and readable by its owner only.
        limit: Bytes of one file. All files of one upload may have sixteen times as many.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit, self._total = folder, limit, 16 * limit
        self._sent: dict[Path, _Sent] = {}
        self._lock = threading.Lock()

    async def receive(self, request: Request) -> Response:
        """Take a form's files; answers with where each lies, as Gradio's page expects it."""
        bytes_received = 0

        async def counted() -> Any:
            nonlocal bytes_received
            message = await request.receive()
            bytes_received += len(message.get("body", b""))
            if bytes_received > self._total:
                raise HTTPException(413, f"all files together exceed {self._total >> 20} MB")
            return message

        if int(request.headers.get("content-length", "0")) > self._total:
            raise HTTPException(413, f"all files together exceed {self._total >> 20} MB")
        async with Request(request.scope, counted).form(max_files=MOST_FILES, max_fields=MOST_FILES) as form:
            files = [file for file in form.getlist("files") if isinstance(file, UploadFile)]
            if any((file.size or 0) > self._limit for file in files):
                raise HTTPException(413, f"a file exceeds {self._limit >> 20} MB")
            paths = [await run_in_threadpool(self._keep, file) for file in files]
        return JSONResponse([str(path) for path in paths])

    @contextmanager
    def taken(self, files: Sequence[Mapping[str, Any]]) -> Iterator[list[Upload]]:
        """Files as an event names them, for as long as they are being answered; then they are deleted.

        Raises:
            UserError: One is not there: it was answered, has expired, or was never sent.
        """
        with self._lock:
            sent = {Path(file["path"]): self._sent.pop(Path(file["path"]), None) for file in files}
        try:
            if not all(sent.values()):
                raise UserError("the file is no longer here; send it again")
            yield [Upload(path, there.name) for path, there in sent.items() if there]
        finally:
            for path, there in sent.items():
                if there:
                    path.unlink(missing_ok=True)

    def expire(self, age: float = EXPIRY) -> None:
        """Delete what has waited for so many seconds: its sender left before the question was asked."""
        with self._lock:
            old = [path for path, sent in self._sent.items() if time.monotonic() - sent.at >= age]
            for path in old:
                del self._sent[path]
        for path in old:
            path.unlink(missing_ok=True)

    def _keep(self, file: UploadFile) -> Path:
        path = self._folder / secrets.token_hex(16)
        with path.open("xb") as target:
            shutil.copyfileobj(file.file, target)
        with self._lock:
            self._sent[path] = _Sent((file.filename or "")[-_LONGEST_NAME:] or "image", time.monotonic())
        return path

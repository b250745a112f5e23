"""Store the files that visitors send, each under its own random name, and delete them after their prediction.

Gradio stores an upload under the hash of its content, until a timer or the end of the program removes it. Two visitors
who send equal files would share one stored file, so it could not be deleted after the first visitor's prediction.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cvrnet.demo.answering import Upload
from cvrnet.errors import UserError

MOST_FILES = 200  # most files in one upload
EXPIRY = 60.0  # seconds after which an unused upload, or an answer that is not fetched, is dropped
TOGETHER = 16  # limit for all files of an upload, and for everything that waits, in multiples of the limit for one file
_LONGEST_NAME = 120
_SMALLEST = 4096  # fewest bytes that are counted for a file, because even an empty file takes space


@dataclass(frozen=True)
class _Stored:
    name: str
    bytes: int


class Uploads:
    """The uploaded files that still wait for a prediction, in a folder that only its owner can read.

    One file may have at most ``limit`` bytes; all files of one upload together, at most `TOGETHER` times as many.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._stored: dict[Path, _Stored] = {}
        self._lock = threading.Lock()
        self.bytes = 0
        self.asked: Callable[[], Container[Path]] = tuple  # uploads that waiting requests name; these do not expire

    async def receive(self, request: Request) -> Response:
        """Store the files of a form, and answer with their paths, as Gradio's page expects."""
        if int(request.headers["content-length"]) > TOGETHER * self._limit:
            raise HTTPException(413, f"all files together exceed {TOGETHER * self._limit >> 20} MB")
        async with request.form(max_files=MOST_FILES, max_fields=MOST_FILES) as form:
            files = [file for file in form.getlist("files") if isinstance(file, UploadFile)]
            if any((file.size or 0) > self._limit for file in files):
                raise HTTPException(413, f"a file exceeds {self._limit >> 20} MB")
            paths = [self._folder / secrets.token_hex(16) for _ in files]
            for path, file in zip(paths, files, strict=True):
                try:
                    await run_in_threadpool(self._store, path, file)
                finally:  # not earlier: a timer that ends before the file is stored could not delete it
                    asyncio.get_running_loop().call_later(EXPIRY, self._expire, path)
        return JSONResponse([str(path) for path in paths])

    @contextmanager
    def taken(self, sent: object) -> Iterator[list[Upload]]:
        """Yield the uploaded files that a request names, and delete them when the block ends.

        ``sent`` is the request's value of a file field (see `paths_of`). Raises UserError if a file is not stored: its
        prediction is finished, the file expired, or it was never sent.
        """
        # A file belongs to the first event that takes it out of the dictionary: no other event or timer deletes it.
        stored = {path: self._take(path) for path in dict.fromkeys(paths_of(sent))}
        uploads = [Upload(path, file.name) for path, file in stored.items() if file is not None]
        try:
            if len(uploads) < len(stored):
                raise UserError("the file is no longer on the server; send it again")
            yield uploads
        finally:
            for upload in uploads:
                upload.path.unlink(missing_ok=True)

    def may_hold(self, sent: object) -> bool:
        """Return whether all paths in a request point into the folder of uploads; the files need not exist."""
        return all(path.parent == self._folder for path in paths_of(sent))

    def _store(self, path: Path, file: UploadFile) -> None:
        size = max(file.size or 0, _SMALLEST)
        with self._lock:
            self._stored[path] = _Stored((file.filename or "")[-_LONGEST_NAME:] or "image", size)
            self.bytes += size
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
            shutil.copyfileobj(file.file, target)

    def _expire(self, path: Path) -> None:
        if path in self.asked():
            asyncio.get_running_loop().call_later(EXPIRY, self._expire, path)
        elif self._take(path) is not None:
            path.unlink(missing_ok=True)

    def _take(self, path: Path) -> _Stored | None:
        with self._lock:
            file = self._stored.pop(path, None)
            self.bytes -= file.bytes if file else 0
        return file


def paths_of(sent: object) -> list[Path]:
    """Return the paths in the untrusted value of a file field. The value is a file, a list of files, or None."""
    files = sent if isinstance(sent, list) else [] if sent is None else [sent]
    return [Path(str(file.get("path"))) if isinstance(file, dict) else Path() for file in files]

"""Files that visitors send: each is stored under its own random name, and deleted after its answer.

Gradio's own uploads lie under the hash of their content, and stay until a timer or the end of the program removes them.
Two visitors who send the same file would share it there, so the first one's answer could not delete it.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cvrnet.demo.answering import Upload
from cvrnet.errors import UserError

MOST_FILES = 200  # in one upload
EXPIRY = 600.0  # seconds until an unused upload is deleted, for example because its sender closed the page
_LONGEST_NAME = 120


class Uploads:
    """The uploaded files that are not yet answered, in a folder that only its owner can read.

    The limit is the bytes of one file. All files of one upload together may have sixteen times as many.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit, self._total = folder, limit, 16 * limit
        self._names: dict[Path, str] = {}

    async def receive(self, request: Request) -> Response:
        """Store the files of a form, and answer with their paths, as Gradio's page expects."""
        if "content-length" not in request.headers:  # browsers always send it; the server enforces it
            raise HTTPException(411, "the length of the upload is missing")
        if int(request.headers["content-length"]) > self._total:
            raise HTTPException(413, f"all files together exceed {self._total >> 20} MB")
        async with request.form(max_files=MOST_FILES, max_fields=MOST_FILES) as form:
            files = [file for file in form.getlist("files") if isinstance(file, UploadFile)]
            if any((file.size or 0) > self._limit for file in files):
                raise HTTPException(413, f"a file exceeds {self._limit >> 20} MB")
            paths = [await run_in_threadpool(self._store, file) for file in files]
        for path in paths:
            asyncio.get_running_loop().call_later(EXPIRY, self._expire, path)
        return JSONResponse([str(path) for path in paths])

    @contextmanager
    def taken(self, files: Sequence[Mapping[str, Any]]) -> Iterator[list[Upload]]:
        """Yield the files that an event names, and delete them at the end.

        Refuses a file that is not stored: it was answered, has expired, or was never sent.
        """
        # A file belongs to the first event that takes it out of the dictionary: no other event or timer deletes it.
        names = {Path(file["path"]): self._names.pop(Path(file["path"]), None) for file in files}
        uploads = [Upload(path, name) for path, name in names.items() if name is not None]
        try:
            if len(uploads) < len(names):
                raise UserError("the file is no longer here; send it again")
            yield uploads
        finally:
            for upload in uploads:
                upload.path.unlink(missing_ok=True)

    def _store(self, file: UploadFile) -> Path:
        path = self._folder / secrets.token_hex(16)
        with path.open("xb") as target:
            shutil.copyfileobj(file.file, target)
        self._names[path] = (file.filename or "")[-_LONGEST_NAME:] or "image"
        return path

    def _expire(self, path: Path) -> None:
        if self._names.pop(path, None) is not None:
            path.unlink(missing_ok=True)

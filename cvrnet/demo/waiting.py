"""Count everything that the server holds for its visitors, limit the total, and drop what visitors do not fetch."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from gradio.queueing import Event, Queue

from cvrnet.demo.uploads import EXPIRY, Uploads, paths_of


class _Mailbox(asyncio.Queue[Any]):
    """Messages to one visitor; `bytes` is their total size.

    `since` is the time when the visitor last read a message. If the mailbox was then empty, `since` is the time when
    the next message arrived.
    """

    def _init(self, maxsize: int) -> None:
        self._messages: deque[tuple[Any, int]] = deque()
        self.bytes, self.since = 0, time.monotonic()

    def _put(self, item: Any) -> None:
        if not self._messages:
            self.since = time.monotonic()
        self._messages.append((item, len(str(item))))
        self.bytes += self._messages[-1][1]

    def _get(self) -> Any:
        item, size = self._messages.popleft()
        self.bytes, self.since = self.bytes - size, time.monotonic()
        return item

    def qsize(self) -> int:
        return len(self._messages)

    def empty(self) -> bool:
        return not self._messages


class _Mailboxes(dict[str, Any]):
    """Session -> mailbox. Gradio's own queues count no bytes, so each is replaced by a `_Mailbox`."""

    def __setitem__(self, session: str, _: object) -> None:
        super().__setitem__(session, _Mailbox())

    def __missing__(self, _: str) -> _Mailbox:
        return _Mailbox()  # for messages to a visitor who left; without a mailbox, Gradio would never end the request

    def __delitem__(self, session: str) -> None:
        self.pop(session, None)  # the session may have expired


class Moving:
    """Counts the bytes that the server holds of one HTTP message, and adds them to `Waiting.bytes`."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self.bytes = 0

    def add(self, count: int) -> None:
        """Add bytes; a negative count takes them away."""
        self.bytes += count
        self._waiting.moving_bytes += count

    def clear(self) -> None:
        """Subtract the bytes of this message from all counts."""
        self.add(-self.bytes)


class Waiting:
    """Counts the waiting bytes: HTTP messages in transit, uploads, waiting requests, and results not yet fetched."""

    def __init__(self, queue: Queue, uploads: Uploads, limit: int) -> None:
        self._queue, self._uploads, self.limit = queue, uploads, limit
        self.moving_bytes = 0  #: HTTP messages in transit
        self._mailboxes = _Mailboxes()
        uploads.asked = lambda: {path for event in self._questions for path in _asked(event)}
        queue.pending_messages_per_session = self._mailboxes  # pyrefly: ignore[bad-assignment]

    @property
    def bytes(self) -> int:
        """The size of everything that waits now."""
        questions = sum(int(event.request.headers["content-length"]) for event in self._questions)
        answers = sum(mailbox.bytes for mailbox in self._mailboxes.values())
        return self.moving_bytes + self._uploads.bytes + questions + answers

    @contextlib.contextmanager
    def moving(self) -> Iterator[Moving]:
        """Yield a `Moving` that counts the bytes of one HTTP message; its count is cleared when the block ends."""
        message = Moving(self)
        try:
            yield message
        finally:
            message.clear()

    @contextlib.asynccontextmanager
    async def sweeping(self, _: object) -> AsyncIterator[None]:
        """Drop what has waited too long, repeatedly, while the page is served."""

        async def sweep_often() -> None:
            while True:
                await asyncio.sleep(EXPIRY / 12)
                await self.sweep()

        task = asyncio.create_task(sweep_often())
        yield
        task.cancel()

    async def sweep(self) -> None:
        """Drop the sessions that fetch nothing, and their waiting requests."""
        before = time.monotonic() - EXPIRY
        asking = {event.session_hash for event in self._questions}
        for session, mailbox in list(self._mailboxes.items()):
            if mailbox.since < before and (mailbox.bytes or session not in asking):
                del self._mailboxes[session]
                await self._queue.clean_events(session_hash=session)
                self._queue.pending_event_ids_session.pop(session, None)

    @property
    def _questions(self) -> list[Event]:
        return list(self._queue.event_ids_to_events.values())


def _asked(event: Event) -> list[Path]:
    """Return the uploads that a waiting request names."""
    return paths_of(event.data.data[0]) if event.data and event.data.data else []

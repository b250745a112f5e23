"""What waits for visitors: limited together, and dropped if nobody comes for it."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.support.demos import film

pytest.importorskip("gradio")

from starlette.datastructures import UploadFile

from cvrnet.demo.serving import running
from cvrnet.demo.uploads import Uploads
from cvrnet.demo.waiting import Waiting
from cvrnet.inference import Predictor

MB = 2**20


@contextmanager
def visited(predictor: Predictor) -> Iterator[tuple[httpx.Client, Waiting]]:
    """A visitor of a page that accepts 1 MB a file, and has 16 MB for all that waits; and what waits there."""
    made: list[Waiting] = []

    def make(*arguments: Any) -> Waiting:
        made.append(Waiting(*arguments))
        return made[0]

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cvrnet.demo.serving.Waiting", make)
        page = running(predictor, "folds", port=port, max_mb=1)
        with page as address, httpx.Client(base_url=address, timeout=60) as client:
            yield client, made[0]


@pytest.fixture(scope="module")
def visit(predictor: Predictor) -> Iterator[tuple[httpx.Client, Waiting]]:
    with visited(predictor) as both:
        yield both


def expire_after(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("uploads", "waiting", "gate"):
        monkeypatch.setattr(f"cvrnet.demo.{name}.EXPIRY", seconds)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end, "never"
        time.sleep(0.05)


def ask(client: httpx.Client, session: str, name: str = "NCP", data: Any = ("network", 0.6)) -> httpx.Response:
    number = next(fn["id"] for fn in client.get("/config").json()["dependencies"] if fn["api_name"] == name)
    question = {"data": list(data), "fn_index": number, "session_hash": session}
    return client.post("/gradio_api/queue/join", json=question)


def fetch(client: httpx.Client, session: str) -> list[Any]:
    """The messages for a session, until its last answer."""
    messages = []
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            messages += [json.loads(line.removeprefix("data: "))] if line else []
            if messages[-1]["msg"] in ("process_completed", "unexpected_error"):
                break
    return messages


def send(client: httpx.Client, *files: bytes) -> httpx.Response:
    return client.post("/gradio_api/upload", files=[("files", ("same.png", file)) for file in files])


def test_answers_that_nobody_fetches_are_dropped(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    expire_after(2, monkeypatch)
    with visited(predictor) as (client, waiting):
        for k in range(3):
            assert ask(client, f"gone-{k}").status_code == 200
        until(lambda: waiting.bytes > 30_000)  # a picture at least, beside the questions
        until(lambda: waiting.bytes == 0)
        told = fetch(client, "gone-2")
        assert (told[-1]["msg"], told[-1]["session_not_found"]) == ("unexpected_error", True)
        assert ask(client, "gone-2").status_code == 200, "the same visitor comes again"
        done = fetch(client, "gone-2")[-1]
        assert done["success"]
        assert "Probability of each class" in str(done["output"]["data"])
        until(lambda: waiting.bytes == 0)


def test_what_waits_is_limited_together(predictor: Predictor) -> None:
    with visited(predictor) as (client, waiting):
        for _ in range(3):
            assert send(client, *[b"x" * (MB - 1)] * 5).status_code == 200
        assert send(client, b"x" * (MB - 2000)).status_code == 200
        assert 16 * MB - 3000 < waiting.bytes <= 16 * MB
        refused = send(client, b"x" * 3000)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "60")
        assert "try again" in refused.text
        assert ask(client, "a" * 3000).status_code == 503
        assert client.get("/").status_code == 200


def test_an_answered_upload_makes_room(visit: tuple[httpx.Client, Waiting]) -> None:
    png = io.BytesIO()
    Image.fromarray(film()).save(png, "PNG")
    client, waiting = visit
    before, size = waiting.bytes, max(png.tell(), 4096)
    paths = send(client, png.getvalue(), png.getvalue()).json()
    until(lambda: waiting.bytes == before + 2 * size)
    assert ask(client, "a", "answer", [{"path": paths[0]}, "network", 0.6]).status_code == 200
    assert fetch(client, "a")[-1]["success"]
    until(lambda: waiting.bytes == before + size)
    assert [Path(path).exists() for path in paths] == [False, True]
    assert ask(client, "a", "answer", [{"path": paths[0]}, "network", 0.6]).status_code == 200
    assert "send it again" in str(fetch(client, "a")[-1]["output"])


def test_uploads_and_slow_senders_expire(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    expire_after(1, monkeypatch)
    with visited(predictor) as (client, waiting):
        path = Path(send(client, b"x", b"y").json()[0])
        until(lambda: not list(path.parent.glob("[0-9a-f]*")))
        until(lambda: waiting.bytes == 0)
        with socket.create_connection((client.base_url.host, client.base_url.port)) as slow:
            slow.settimeout(30)
            head = (
                "POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x"
            )
            slow.sendall(f"{head}\r\nContent-Length: 5000\r\n\r\n--x\r\n".encode())
            assert b" 408 " in slow.recv(100)
        until(lambda: waiting.bytes == 0)


def test_an_upload_waits_as_long_as_its_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expire_after(0.02, monkeypatch)
    uploads, path = Uploads(tmp_path, 1000), tmp_path / "a"
    uploads._store(path, UploadFile(io.BytesIO(b"x"), size=1))
    assert uploads.bytes == 4096

    async def expire(asked: set[Path]) -> bool:
        uploads.asked = lambda: asked
        uploads._expire(path)
        await asyncio.sleep(0.1)
        return path.exists()

    assert asyncio.run(expire({path}))
    assert not asyncio.run(expire(set()))
    assert uploads.bytes == 0


def question(values: bytes) -> bytes:
    return b'{"data": [' + values + b'], "fn_index": 0, "session_hash": "a"}'


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (question(b"[]," * 2_000_000 + b"0"), 413),  # would take a hundred megabytes
        (question(b'"' + b"x" * 9_000_000 + b'"'), 413),
        (question(b"[" * 9000 + b"]" * 9000), 400),
        (question(b"1" * 5000), 400),
        (b"", 422),
    ],
    ids=["values", "length", "depth", "digits", "nothing"],
)
def test_odd_questions_are_refused_before_they_take_memory(
    visit: tuple[httpx.Client, Waiting], body: bytes, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    client, _ = visit
    headers = {"content-type": "application/json"}
    assert client.post("/gradio_api/queue/join", content=body, headers=headers).status_code == status
    assert client.get("/").status_code == 200
    assert "Traceback" not in "".join(capfd.readouterr())


def test_questions_that_no_page_asks(visit: tuple[httpx.Client, Waiting], capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing of them reaches the terminal, where it could be a control sequence, and no file is opened."""
    odd: list[tuple[str, list[Any]]] = [("answer", []), ("answer", ["\x1b[31m", 1, 2]), ("answer", [[], 1, 2])]
    odd += [("answer", [{"path": "/etc/passwd", "url": "http://127.0.0.1:1/"}, 1, 2]), ("answer", [[None, 7], 1, 2])]
    odd += [("table", [None]), ("table", [{"path": ["\x1b"]}]), ("draw", [{"\x1b": 1}, {}, [], None])]
    odd += [("draw", ["\x1b", [], {}, 10**400]), ("NCP", [{"\x1b": 1}, "\x1b"]), ("NCP", ["network"])]
    client, waiting = visit
    before = waiting.bytes
    for k, (name, data) in enumerate(odd):
        assert ask(client, f"odd-{k}", name, data).status_code == 200
        assert fetch(client, f"odd-{k}")[-1]["msg"] == "process_completed"
    until(lambda: waiting.bytes <= before)
    out, err = capfd.readouterr()
    assert "\x1b" not in out + err
    assert "Traceback" not in out + err


def test_a_visitor_who_leaves_takes_everything_along(
    visit: tuple[httpx.Client, Waiting], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Gradio drops a session at once if it waits for a message when the visitor leaves, but not if it is sending one.
    # The rest expires.
    expire_after(0.5, monkeypatch)
    client, waiting = visit
    before = waiting.bytes
    for _ in range(5):
        assert ask(client, "leaver").status_code == 200
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "leaver"}) as stream:
        next(stream.iter_lines())
    until(lambda: waiting.bytes <= before)


def test_a_question_without_its_length_is_refused(visit: tuple[httpx.Client, Waiting]) -> None:
    client, _ = visit
    assert client.post("/gradio_api/queue/join", content=iter([question(b"1")])).status_code == 411


def test_headers_have_a_limit(visit: tuple[httpx.Client, Waiting]) -> None:
    client, _ = visit
    with socket.create_connection((client.base_url.host, client.base_url.port)) as large:
        large.settimeout(30)
        large.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000)
        assert b" 400 " in large.recv(100)

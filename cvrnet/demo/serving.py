"""The page on the network: on this machine alone unless asked otherwise, with nothing kept and nobody told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.state_holder import SessionState, StateHolder
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from cvrnet.data.identity import KEY
from cvrnet.demo.answering import Answering
from cvrnet.demo.page import build_page, css
from cvrnet.demo.uploads import Uploads
from cvrnet.errors import UserError
from cvrnet.inference import Predictor

HOST, PORT, MAX_MB = "127.0.0.1", 7860, 64
_API = "/gradio_api"
_CLOSED = tuple(f"{_API}/{name}" for name in ("file", "proxy", "deep_link", "stream"))
"""Gradio's ways to fetch files and other servers' pages, or to save a session: none is used here."""
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; form-action 'self'"
)
"""The browser asks no other server for anything."""

_FONTS = (gr.themes.LocalFont("Source Sans Pro", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif")
"""Served by the page itself. (Gradio's semibold, its default, lacks most letters.)"""


def serve(model: str, *, host: str = HOST, port: int = PORT, max_mb: int = MAX_MB) -> None:
    """Serve the page of a model until the program is interrupted.

    Args:
        model: A MODEL argument: run folder, fold folder, ``local-dir:FOLDER``, ``hf-hub:user/repo``, or ONNX file.
        host: Whose requests are heard: ``127.0.0.1`` for this machine's alone, ``0.0.0.0`` for the whole network's.
        port: Where.
        max_mb: Megabytes of an upload.

    Raises:
        UserError: There is no such model, or the port is in use.
    """
    check_port(host, port)
    with until_interrupted(), running(Predictor.from_pretrained(model), page_name(model), host, port, max_mb):
        threading.Event().wait()


@contextlib.contextmanager
def until_interrupted() -> Iterator[None]:
    """Ctrl-C or SIGTERM ends what happens in here, cleanly and quietly."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def running(predictor: Predictor, name: str, host: str = HOST, port: int = PORT, max_mb: int = MAX_MB) -> Iterator[str]:
    """The page, served by threads of this program; gives its address.

    Args:
        predictor: The model.
        name: What the page calls it.
        host: As in `serve`.
        port: As in `serve`.
        max_mb: As in `serve`.

    Raises:
        UserError: The port is in use.
    """
    answering = Answering(predictor)
    with tempfile.TemporaryDirectory(prefix="cvrnet-demo-") as folder, _environment(folder):
        uploads = Uploads(Path(folder), max_mb << 20)
        page = build_page(answering, uploads, name)
        try:
            _launch(page, uploads, host, port, max_mb)
            yield f"http://{'127.0.0.1' if host == '0.0.0.0' else _bracketed(host)}:{port}"
        finally:
            page.close(verbose=False)


def check_port(host: str, port: int) -> None:
    """Refuse a port that is in use, or that this machine does not let us use.

    Raises:
        UserError: Names the port and what to do.
    """
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(
            f"port {port} of {host} cannot be used ({reason}); choose another, as in --port {min(port + 1, 65535)}"
        ) from error


def page_name(model: str) -> str:
    """What a MODEL argument is called on the page: its repository, or the last name of its path.

    >>> page_name("hf-hub:ada/chest@fold-1"), page_name("runs/folds/"), page_name("chest.onnx")
    ('ada/chest@fold-1', 'folds', 'chest.onnx')
    """
    scheme, colon, rest = model.partition(":")
    if colon and scheme in ("hf-hub", "hf_hub"):
        return rest
    return Path(model.removeprefix("local-dir:")).resolve().name


def _bracketed(host: str) -> str:
    """As it stands in an address: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def _launch(page: gr.Blocks, uploads: Uploads, host: str, port: int, max_mb: int) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        app.state_holder = _NoSessions()
        app.state_holder.set_blocks(page)
        sweep = asyncio.create_task(_sweep(uploads))
        yield
        sweep.cancel()

    try:
        page.launch(
            server_name=_bracketed(host),
            server_port=port,
            share=False,
            inbrowser=False,
            inline=False,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            max_file_size=max_mb << 20,
            theme=gr.themes.Default(primary_hue="blue", font=_FONTS),
            css=css(),
            app_kwargs={
                "routes": [
                    Route(f"{_API}/upload", uploads.receive, methods=["POST"]),
                    Route(f"{_API}/upload_progress", _no_progress),
                ],
                "middleware": [Middleware(_Gate)],
                "lifespan": lifespan,
            },
        )
    except OSError as error:
        check_port(host, port)  # another program was faster
        raise UserError(f"the page cannot be served at {host}:{port}: {error}") from error


async def _no_progress(request: Request) -> Response:
    """The page asks how far its upload is; it hears of the end from the upload's own answer."""
    return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")


async def _sweep(uploads: Uploads) -> None:
    while True:
        await asyncio.sleep(60)
        uploads.expire()


class _NoSessions(StateHolder):
    """Gradio would keep each visitor's last image and answer in memory, to save or restore them; nothing here does."""

    def __getitem__(self, session_id: str) -> SessionState:
        return SessionState(self.blocks)


class _Gate:
    """Adds the policy to every answer, and closes the ways that the page does not need."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [(b"content-security-policy", _POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"].startswith(_CLOSED):
            await PlainTextResponse("not here", 404)(scope, receive, with_policy)
        else:
            await self._app(scope, receive, with_policy)


@contextlib.contextmanager
def _environment(folder: str) -> Iterator[None]:
    """Settings of the page's time: no proxy is asked for this machine's own page, no key of pseudonyms is kept."""
    local = "127.0.0.1,localhost"
    wanted = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", KEY: secrets.token_hex()}
    wanted |= {key: ",".join(filter(None, [os.environ.get(key), local])) for key in ("NO_PROXY", "no_proxy")}
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value

"""Serves the page: by default to this machine only; no upload is kept, and no other server is contacted."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
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
from cvrnet.demo.page import build_page
from cvrnet.demo.uploads import Uploads
from cvrnet.errors import UserError
from cvrnet.inference import Predictor

HOST, PORT, MAX_MB = "127.0.0.1", 7860, 64
_API = "/gradio_api"
_CLOSED = tuple(f"{_API}/{name}" for name in ("file", "proxy", "deep_link", "stream"))
"""Gradio's routes that fetch files or other servers' pages, or save a session; the page uses none of them."""
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; form-action 'self'"
)
"""Content security policy: the browser may ask no other server for anything."""

_FONTS = (gr.themes.LocalFont("Source Sans Pro", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif")
"""Served by the page itself. Gradio's default weight, semibold, lacks most letters in the file that it brings."""


def serve(
    model: str,
    *,
    host: str = HOST,
    port: int = PORT,
    max_mb: int = MAX_MB,
    device: str = "auto",
    dtype: str = "auto",
    folds: Sequence[int] = (),
    any_body_part: bool = False,
    on_ready: Callable[[str, str], object] | None = None,
) -> None:
    """Serve the page of a model until Ctrl-C or SIGTERM; other arguments: as `cvrnet.Predictor.from_pretrained`.

    The host ``127.0.0.1`` accepts requests of this machine alone, ``0.0.0.0`` those of the whole network. One uploaded
    file may have `max_mb` megabytes. When the page is served, `on_ready` is called with its name and address.

    Raises:
        UserError: There is no such model, or the port is in use.
    """
    check_port(host, port)  # before the model is loaded, which takes longer
    predictor = Predictor.from_pretrained(model, device, dtype, folds=folds, any_body_part=any_body_part)
    name = page_name(model)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with running(predictor, name, host, port, max_mb) as address:
            if on_ready:
                on_ready(name, address)
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def running(predictor: Predictor, name: str, host: str = HOST, port: int = PORT, max_mb: int = MAX_MB) -> Iterator[str]:
    """Serve the page from threads of this program, and yield its address; other arguments and errors as `serve`."""
    answering = Answering(predictor)
    with tempfile.TemporaryDirectory(prefix="cvrnet-demo-") as folder, _environment(folder):
        uploads = Uploads(Path(folder), max_mb << 20)
        page = build_page(answering, uploads, name)
        try:
            name_in_url = f"[{host}]" if ":" in host else host  # IPv6 in brackets
            _launch(page, uploads, name_in_url, port, max_mb)
            yield f"http://{'127.0.0.1' if host == '0.0.0.0' else name_in_url}:{port}"
        finally:
            page.close(verbose=False)


def check_port(host: str, port: int) -> None:
    """Refuse a port that is in use, or that this user may not use."""
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"port {port} of {host} cannot be used ({reason}); --port chooses another") from error


def page_name(model: str) -> str:
    """The page's name for a MODEL argument: its repository, or the last name of its path.

    >>> page_name("hf-hub:ada/chest@fold-1"), page_name("runs/folds/"), page_name("chest.onnx")
    ('ada/chest@fold-1', 'folds', 'chest.onnx')
    """
    scheme, colon, rest = model.partition(":")
    if colon and scheme in ("hf-hub", "hf_hub"):
        return rest
    return Path(model.removeprefix("local-dir:")).resolve().name


def _launch(page: gr.Blocks, uploads: Uploads, host: str, port: int, max_mb: int) -> None:
    try:
        app, _, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
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
            css_paths=Path(__file__).with_name("page.css"),
            app_kwargs={
                "routes": [
                    Route(f"{_API}/upload", uploads.receive, methods=["POST"]),
                    Route(f"{_API}/upload_progress", _no_progress),
                ],
                "middleware": [Middleware(_Gate)],
            },
        )
    except OSError as error:
        check_port(host.strip("[]"), port)  # another program may have taken it while the model was loaded
        raise UserError(f"the page cannot be served at {host}:{port}: {error}") from error
    app.state_holder = _NoSessions()
    app.state_holder.set_blocks(page)


async def _no_progress(request: Request) -> Response:
    """Tell the page that its upload has ended: it waits for the answer to the upload itself as well."""
    return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")


class _NoSessions(StateHolder):
    """Makes a new session for each event. Gradio's own class would keep the last image and answer of each visitor."""

    def __getitem__(self, session_id: str) -> SessionState:
        return SessionState(self.blocks)


class _Gate:
    """Middleware that adds the security policy to every answer, and closes the routes that the page does not use."""

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
    """Set environment variables while the page is served, and restore them afterwards."""
    wanted = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
    wanted[KEY] = secrets.token_hex()  # else reading DICOM files would save a key for pseudonyms in the home folder
    for name in ("NO_PROXY", "no_proxy"):  # Gradio asks its own page whether it is up: not through a proxy
        wanted[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))
    before = {name: os.environ[name] for name in wanted if name in os.environ}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in wanted:
            del os.environ[name]
        os.environ.update(before)

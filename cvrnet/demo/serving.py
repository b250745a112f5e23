"""Serve the demo's page, by default to this machine only. The server keeps no upload and contacts no other server."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import uvicorn
from gradio import routes
from gradio.state_holder import SessionState, StateHolder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cvrnet.data.identity import KEY
from cvrnet.demo.answering import Answering
from cvrnet.demo.gate import API, UPLOAD, AllowedHosts, Gate
from cvrnet.demo.page import build_page
from cvrnet.demo.uploads import EXPIRY, TOGETHER, Uploads
from cvrnet.demo.waiting import Waiting
from cvrnet.errors import UserError
from cvrnet.inference import Predictor
from cvrnet.runs.checkpoint import refuse_bags

HOST, PORT, MAX_MB = "127.0.0.1", 7860, 64
_CONNECTIONS = 500  # most connections at once; further connections get a message that the server is busy
_FONTS = (gr.themes.LocalFont("Source Sans Pro", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif")
"""Fonts that this server provides. Gradio's default weight, semibold, is left out: its file lacks most letters."""


def serve(
    model: str,
    *,
    host: str = HOST,
    port: int = PORT,
    max_mb: int = MAX_MB,
    allow_hosts: Sequence[str] = (),
    device: str = "auto",
    dtype: str = "auto",
    folds: Sequence[int] = (),
    any_body_part: bool = False,
    backend: str | None = None,
    on_ready: Callable[[str, str], object] | None = None,
) -> None:
    """Serve the page of a model until Ctrl-C or SIGTERM.

    The host ``127.0.0.1`` accepts requests from this machine only, ``0.0.0.0`` from the whole network. One uploaded
    file may have at most `max_mb` megabytes. Browsers may call the page by its address, or by a name in `allow_hosts`.
    When the page can be opened, `on_ready` is called with the model's name and the page's address. The other
    arguments are those of `cvrnet.Predictor.from_pretrained`.

    Raises:
        UserError: There is no such model, the model classifies whole studies or patients, the port cannot be used, or a
            name in `allow_hosts` is not a host name.
    """
    AllowedHosts(host, allow_hosts)  # both checks come first, because loading the model takes time
    check_port(host, port)
    predictor = Predictor.from_pretrained(
        model, device, dtype, folds=folds, any_body_part=any_body_part, backend=backend
    )
    refuse_bags(predictor.unit, "the demo")
    name = page_name(model)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with running(predictor, name, host, port, max_mb, allow_hosts) as address:
            if on_ready:
                on_ready(name, address)
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def running(
    predictor: Predictor,
    name: str,
    host: str = HOST,
    port: int = PORT,
    max_mb: int = MAX_MB,
    allow_hosts: Sequence[str] = (),
) -> Iterator[str]:
    """Serve the page from threads of this program, and yield its address; arguments and errors are as in `serve`."""
    root_path = os.environ.get("GRADIO_ROOT_PATH", "")
    hosts = _allowed_hosts(host, allow_hosts, root_path)
    answering = Answering(predictor)
    with tempfile.TemporaryDirectory(prefix="cvrnet-demo-") as folder, _environment(folder):
        uploads = Uploads(Path(folder), max_mb << 20)
        page = build_page(answering, uploads, name)
        waiting = Waiting(page._queue, uploads, TOGETHER * max_mb << 20)
        app = _mount(page, uploads, waiting, max_mb, root_path)
        with _listen(host, port) as listener, _serving(Gate(app, hosts, waiting, root_path), listener):
            name_in_url = f"[{host}]" if ":" in host else host  # IPv6 in brackets
            yield f"http://{'127.0.0.1' if host == '0.0.0.0' else name_in_url}:{port}"


def check_port(host: str, port: int) -> None:
    """Raise UserError if a port is in use, or if this user may not use it."""
    _listen(host, port).close()


def page_name(model: str) -> str:
    """Return the page's name for a MODEL argument: the repository, or the last part of the path.

    >>> page_name("hf-hub:ada/chest@fold-1"), page_name("runs/folds/"), page_name("chest.onnx")
    ('ada/chest@fold-1', 'folds', 'chest.onnx')
    """
    scheme, colon, rest = model.partition(":")
    if colon and scheme in ("hf-hub", "hf_hub"):
        return rest
    return Path(model.removeprefix("local-dir:")).resolve().name


def _allowed_hosts(host: str, names: Sequence[str], root_path: str) -> AllowedHosts:
    space = os.environ.get("SPACE_HOST")  # set on a Hugging Face Space
    public = urlsplit(root_path).netloc
    return AllowedHosts(host, [*names, *filter(None, [space, public])])


def _mount(page: gr.Blocks, uploads: Uploads, waiting: Waiting, max_mb: int, root_path: str) -> Starlette:
    """Return the page as an ASGI application; uploads go to `uploads` instead of to Gradio."""
    routes = [
        Route(UPLOAD, uploads.receive, methods=["POST"]),
        Route(f"{API}/upload_progress", _no_progress),
    ]
    app = gr.mount_gradio_app(
        Starlette(routes=routes, lifespan=waiting.sweeping),
        page,
        path="/",
        root_path=root_path,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        max_file_size=max_mb << 20,
        theme=gr.themes.Default(primary_hue="blue", font=_FONTS),
        css_paths=Path(__file__).with_name("page.css"),
    )
    mounted: Any = app.routes[-1]
    mounted.app.state_holder = _NoSessions()
    mounted.app.state_holder.set_blocks(page)
    return app


def _listen(host: str, port: int) -> socket.socket:
    """Open the page's socket; raise UserError if the port is in use, or this user may not use it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio sends answers at once (TCP_NODELAY) only if the socket states its protocol. Otherwise, each answer on
        # a connection that stays open waits 40 ms for the client to confirm the headers.
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # ends connections of clients that do not read
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(EXPIRY * 1000))
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"port {port} of {host} cannot be used ({reason}); --port chooses another") from error
    return listener


@contextlib.contextmanager
def _serving(app: Gate, listener: socket.socket) -> Iterator[None]:
    """Answer a socket's requests in a thread."""
    config = uvicorn.Config(
        app,
        http="h11",  # it limits the length of headers
        ws="none",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise UserError("the page cannot be served: the web server could not start; try another --port")
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join(10)


async def _no_progress(request: Request) -> Response:
    """Tell the page that its upload has ended; the page also waits for the response to the upload itself."""
    return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")


class _NoSessions(StateHolder):
    """Makes a new session for each event. Gradio's own class would keep each visitor's last image and prediction."""

    def __getitem__(self, session_id: str) -> SessionState:
        return SessionState(self.blocks)


@contextlib.contextmanager
def _environment(folder: str) -> Iterator[None]:
    """Set environment variables while the page is served, and restore them afterwards."""
    wanted = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
    wanted["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"  # Gradio would keep a record of each of the last 10,000 requests
    wanted[KEY] = secrets.token_hex()  # otherwise, reading DICOM files would save a key in the home folder
    before = {name: os.environ[name] for name in wanted if name in os.environ}
    os.environ.update(wanted)
    # Gradio read GRADIO_TEMP_DIR when it was imported. Its app makes folders in the default folder, which may belong to
    # another user.
    imported, routes.DEFAULT_TEMP_DIR = routes.DEFAULT_TEMP_DIR, folder
    try:
        yield
    finally:
        routes.DEFAULT_TEMP_DIR = imported
        for name in wanted:
            del os.environ[name]
        os.environ.update(before)

"""Check each request before it reaches the demo's page: let it through or refuse it, and count its bytes."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

from cvrnet.demo.uploads import EXPIRY
from cvrnet.demo.waiting import Moving, Waiting
from cvrnet.errors import UserError

API, UPLOAD = "/gradio_api", "/gradio_api/upload"
_OPEN = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|robots\.txt|(assets|static)/[^:\\]+)"
    rf"|{API}/(info|upload|upload_progress|heartbeat/[^/]+|queue/(join|data)|cancel|call/(?!v2/)[^/]+(/[^/]+)?)"
)
"""The routes that the page and Gradio's client use. Gradio's other routes give access to files or sessions."""
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; form-action 'self'"
)
"""Content security policy: the browser may not contact any other server."""
_MOST_BODY = 9_000_000  # most bytes of a request that is not an upload: the page sends a picture and its maps
_MOST_VALUES = 20_000  # most JSON values in such a request: a parsed "[]," takes 60 times the memory of its text
_LOCAL = {"localhost", "127.0.0.1", "::1"}


class AllowedHosts:
    """The host names by which browsers may call the page, and the origins that may send requests.

    The owner of a hostile web page could make its host name point to this machine (DNS rebinding). The page's requests
    would then come to this machine, with that host name in their header Host. So Host must be a known name or an IP
    address; an IP address is safe, because nobody can make it point to another machine. If the demo is served to this
    machine only, the only IP addresses that Host may have are the local ones.

    A hostile web page could also send requests to the address of this machine. Their header Origin names the host of
    the hostile page, so Origin must be the host that the request calls, or one of the `names`.

    Raises:
        UserError: One of the `names` is not a host name.
    """

    def __init__(self, served: str, names: Sequence[str] = ()) -> None:
        own = hostname(served)
        self._added = set()
        for name in names:
            if not (host := hostname(name)) or "*" in host:
                raise UserError(f"{name!r} is not a host name: --allow-host expects a name such as demo.example.org")
            self._added.add(host)
        self._addresses = own not in _LOCAL
        everywhere = own in ("0.0.0.0", "::")
        self._names = {own, *self._added} | (_LOCAL if everywhere or own in _LOCAL else set())

    def problem(self, headers: Headers) -> str:
        """Return why a request is refused; ``""`` if it is allowed."""
        hosts = headers.getlist("host")
        forwarded = [host.strip() for line in headers.getlist("x-forwarded-host") for host in line.split(",")]
        if len(hosts) != 1 or not all(self._is_allowed(hostname(host)) for host in hosts + forwarded):
            return "this server does not have this host name; --allow-host adds it"
        places = {_place(host) for host in hosts + forwarded}
        for origin in headers.getlist("origin"):
            scheme, _, rest = origin.partition("://")
            if scheme not in ("http", "https") or not (_place(rest) in places or hostname(rest) in self._added):
                return "the request comes from another page"
        return ""

    def _is_allowed(self, host: str) -> bool:
        return host in self._names or (self._addresses and _is_address(host))


class Gate:
    """ASGI middleware that gets every request first, and lets it through or refuses it.

    A request is let through if it is for an allowed host and for a route that the page needs (`_OPEN`), and does not
    come from another page. While the waiting bytes (see `Waiting`) exceed their limit, requests that have a body get
    the answer "try again". All responses get the content security policy.
    """

    def __init__(self, app: Callable[..., Any], hosts: AllowedHosts, waiting: Waiting, root_path: str = "") -> None:
        self._app, self._hosts, self._waiting = app, hosts, waiting
        self._root = urlsplit(root_path).path.rstrip("/")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let one request through, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            # Remove the root path once, as the router does; `_refusal` then checks that `_OPEN` matches the rest.
            path = scope["path"]
            if self._root and path.startswith(f"{self._root}/"):
                path = path.removeprefix(self._root)
            with self._waiting.moving() as sent:
                send = _with_policy(send, sent)
                if refusal := self._refusal(scope, path):
                    await refusal(scope, receive, send)
                    return
                with self._waiting.moving() as received:
                    scope = {**scope, "path": path, "raw_path": path.encode()}
                    if scope["method"] == "POST":
                        receive = self._counted(receive, received, path == UPLOAD)

                    async def answer(message: Any) -> None:
                        # The request is read. `Waiting` counts stored uploads and waiting requests separately.
                        received.clear()
                        await send(message)

                    await self._app(scope, receive, answer)

    def _refusal(self, scope: Any, path: str) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        if problem := self._hosts.problem(headers):
            return PlainTextResponse(problem, 403)
        if not _OPEN.fullmatch(path) or ".." in path:
            return PlainTextResponse("there is no such page", 404)
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("this method is not allowed", 405)
        if scope["method"] == "POST" and "content-length" not in headers:  # the server enforces this length
            return PlainTextResponse("the header Content-Length is missing", 411)
        return None

    def _counted(self, receive: Any, received: Moving, is_upload: bool) -> Any:
        complete, values = False, 0

        async def counted() -> Any:
            nonlocal complete, values
            if complete:  # Gradio waits for the next message, which is the end of the connection
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), EXPIRY)
            except TimeoutError:
                raise HTTPException(408, "the rest of the request did not arrive in time") from None
            body = message.get("body", b"")
            complete = not message.get("more_body", False)
            received.add(len(body))
            if not is_upload:
                values += sum(map(body.count, (b",", b"[", b"{")))
                if received.bytes > _MOST_BODY or values > _MOST_VALUES:
                    raise HTTPException(413, "the request is too long")
            if body and self._waiting.bytes > self._waiting.limit:
                raise HTTPException(503, "the server is busy; try again in a minute", {"retry-after": "60"})
            return message

        return counted


def _with_policy(send: Any, sent: Moving) -> Any:
    async def with_policy(message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = [(b"content-security-policy", _POLICY.encode()), (b"referrer-policy", b"no-referrer")]
            message = {**message, "headers": [*message["headers"], *headers]}
        size = len(message.get("body", b""))
        sent.add(size)
        await send(message)  # waits while the client reads slowly
        sent.add(-size)

    return with_policy


def hostname(place: str) -> str:
    """Return the host of ``host:port``, in lower case; ``""`` if the text has no valid host.

    >>> hostname("LocalHost:7860"), hostname("[::1]:7860"), hostname("::1"), hostname("http://a"), hostname("a@b")
    ('localhost', '::1', '::1', '', '')
    """
    return _place(place)[0]


def _place(text: str) -> tuple[str, int | None]:
    if _is_address(text):
        return text.lower(), None
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "", None
    if parts.netloc != text or "@" in text or any(character.isspace() for character in text):
        return "", None
    return host.rstrip("."), None if port in (80, 443) else port


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

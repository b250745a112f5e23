"""What reaches the page: requests for its own name, from its own page, to the routes that it uses."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("gradio")

from gradio import routes
from gradio_client import Client
from starlette.datastructures import Headers

from cvrnet.demo.gate import AllowedHosts
from cvrnet.demo.serving import running
from cvrnet.errors import UserError
from cvrnet.inference import Predictor
from tests.support.privileges import permissions_hold


@contextmanager
def served(predictor: Predictor, **settings: Any) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with running(predictor, "folds", port=port, max_mb=1, **settings) as address:
        yield address


@pytest.fixture(scope="module")
def address(predictor: Predictor) -> Iterator[str]:
    with served(predictor) as address:
        yield address


def problem(served: str, names: tuple[str, ...] = (), **headers: str) -> str:
    sent = Headers({name.replace("_", "-"): text for name, text in headers.items()})
    return AllowedHosts(served, names).problem(sent)


LOCAL = ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "localhost."]
FOREIGN = ["", "evil.com", "evil.com:7860", "127.0.0.1.evil.com", "localhost.evil.com", "x@localhost", "[::1", "*"]
FOREIGN += ["localhost, evil.com", "localhost:port", "http://localhost", "local host", "localhost/../x"]


@pytest.mark.parametrize("served", ["127.0.0.1", "localhost", "::1", "0.0.0.0", "::"])
def test_only_its_own_names_call_it(served: str) -> None:
    """A name that its owner lets point to this machine (DNS rebinding) is not one of them."""
    for host in LOCAL:
        assert problem(served, host=host) == "", host
    for host in FOREIGN:
        assert "--allow-host" in problem(served, host=host), host
        assert problem(served, host="localhost", x_forwarded_host=host), host
    assert problem(served)
    assert bool(problem(served, host="192.168.7.9:7860")) == (served not in ("0.0.0.0", "::"))


def test_names_can_be_added() -> None:
    added = ("Demo.example.org", "10.0.0.7:8443")
    assert problem("127.0.0.1", added, host="demo.example.org") == ""
    assert problem("127.0.0.1", added, host="10.0.0.7") == ""
    assert problem("127.0.0.1", added, host="127.0.0.1", origin="https://demo.example.org") == "", "a proxy's address"
    assert problem("127.0.0.1", added, host="x", x_forwarded_host="demo.example.org")
    assert problem("127.0.0.1", added, host="example.org")
    assert problem("chest.lan", host="chest.lan:7860") == ""
    assert problem("chest.lan", host="localhost")
    for name in ("", "*", "*.example.org", "https://example.org", "a/b", "a b"):
        with pytest.raises(UserError, match="--allow-host expects a name such as"):
            AllowedHosts("127.0.0.1", [name])


@pytest.mark.parametrize("path", ["/", "/config", "/assets/a.js", "/gradio_api/upload", "/gradio_api/queue/join"])
def test_only_its_own_page_asks(address: str, path: str) -> None:
    host = address.removeprefix("http://")
    port = int(host.rpartition(":")[2])
    foreign = ["null", "", "http://evil.com", f"http://{host}.evil.com", f"http://127.0.0.1:{port ^ 1}"]
    foreign += [f"http://localhost:{port}", "file://", f"http://x@{host}"]
    with httpx.Client(base_url=address) as client:
        for method in ("GET", "HEAD", "POST", "OPTIONS"):
            for origin in foreign:
                asked = {"origin": origin, "access-control-request-method": "POST"}
                files = {"files": ("a", b"x")} if method == "POST" else None
                refused = client.request(method, path, headers=asked, files=files)
                assert refused.status_code == 403, (method, origin)
                assert "access-control-allow-origin" not in refused.headers
            assert client.request(method, path, headers={"host": "evil.com"}).status_code == 403
        assert client.get("/config", headers={"origin": f"http://{host}"}).status_code == 200
        assert client.get("/config", headers={"origin": f"https://{host}"}).status_code == 200, "TLS ends at a proxy"


OPEN = {"/", "/config", "/theme.css", "/favicon.ico", "/robots.txt", "/assets/x", "/static/x", "/gradio_api/info"}
OPEN |= {f"/gradio_api/{name}" for name in ("upload", "upload_progress", "heartbeat/x", "queue/join", "queue/data")}
OPEN |= {"/gradio_api/cancel", "/gradio_api/call/x", "/gradio_api/call/x/x"}


TRICKS = ["//{0}", "/.{0}", "/x/..{0}", "/%2e{0}", "{0}/", "{0}%2f", "/demo/demo{0}", "/static/..{0}", "http://x{0}"]


@pytest.mark.parametrize("root", ["", "/demo", "https://example.org/demo"])
def test_other_routes_of_gradio_are_closed(predictor: Predictor, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    apps: list[routes.App] = []
    made = routes.App.create_app
    monkeypatch.setattr(routes.App, "create_app", lambda *args, **kw: apps.append(made(*args, **kw)) or apps[-1])
    monkeypatch.setenv("GRADIO_ROOT_PATH", root)
    with served(predictor) as address, httpx.Client(base_url=address) as client:
        paths = {re.sub(r"\{[^}]*\}", "x", path) for path in apps[-1].openapi()["paths"]}
        assert {"/gradio_api/file=x", "/gradio_api/stream/x", "/gradio_api/vibe-code/", "/gradio_api/run/x"} <= paths
        assert OPEN - {"/gradio_api/upload_progress"} <= paths
        for path in sorted(paths - OPEN):
            assert client.get(f"{'/demo' if root else ''}{path}").status_code == 404, path
        for trick in TRICKS:
            for path in ("/gradio_api/file=/etc/passwd", "/gradio_api/upload", "/GRADIO_API/UPLOAD"):
                target = {"target": trick.format(path).encode()}
                assert client.post("/", extensions=target).status_code in (400, 404), trick
        for prefix in ("", "/demo") if root else ("",):
            assert client.get(f"{prefix}/config").status_code == 200
            stored = client.post(f"{prefix}/gradio_api/upload", files={"files": ("a", b"x")}).json()
            assert re.fullmatch(r"cvrnet-demo-\w+", Path(stored[0]).parent.name)


def test_answers_do_not_wait_for_the_client(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this option, each answer on a connection that stays open takes 40 ms longer."""
    really, options = socket.socket.setsockopt, []

    def spy(self: socket.socket, *option: Any) -> None:
        options.append((self.getsockname()[1], *option))
        really(self, *option)

    monkeypatch.setattr(socket.socket, "setsockopt", spy)
    with served(predictor) as address, httpx.Client(base_url=address) as client:
        assert client.get("/robots.txt").status_code == 200
    assert (int(address.rpartition(":")[2]), socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) in options


def test_the_page_answers_under_a_root_path(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_ROOT_PATH", "/demo")
    with served(predictor) as address:
        answer = Client(f"{address}/demo/", verbose=False).predict("network", 0.6, api_name="/NCP")
        assert "Probability of each class" in answer[0]


def test_a_space_is_called_by_its_name(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face's proxy passes the name on, and Spaces know it by SPACE_HOST."""
    monkeypatch.setenv("SPACE_HOST", "ada-chest.hf.space")
    own = {"host": "ada-chest.hf.space", "origin": "https://ada-chest.hf.space", "x-forwarded-proto": "https"}
    with served(predictor) as address, httpx.Client(base_url=address) as client:
        assert client.get("/", headers=own).status_code == 200
        assert client.get("/config", headers=own).json()["root"] == "https://ada-chest.hf.space"
        assert client.get("/config", headers={**own, "origin": "https://eve-chest.hf.space"}).status_code == 403
        assert client.get("/", headers={"host": "eve-chest.hf.space"}).status_code == 403


def test_another_users_temporary_folder(predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "gradio"
    theirs.mkdir(mode=0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(routes, "DEFAULT_TEMP_DIR", str(theirs))  # as when Gradio is imported with this folder
    with permissions_hold():
        with pytest.raises(PermissionError):
            list(theirs.iterdir())
        with served(predictor) as address:
            (own,) = tmp_path.glob("cvrnet-demo-*")
            assert own.stat().st_mode & 0o777 == 0o700
            (stored,) = httpx.post(f"{address}/gradio_api/upload", files={"files": ("a", b"x")}).json()
            assert Path(stored).stat().st_mode & 0o777 == 0o600
        assert not own.exists()
    assert str(theirs) == routes.DEFAULT_TEMP_DIR


def test_a_name_that_is_none_is_one_line(cli: Any, tmp_path: Path) -> None:
    status, _, err = cli("demo", tmp_path, "--allow-host", "https://example.org")
    assert (status, err.count("\n")) == (1, 1)
    assert "'https://example.org' is not a host name" in err

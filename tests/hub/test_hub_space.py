"""Spaces: the files that are pushed, who can see them, and that their program serves the run."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import HfApi, SpaceCard
from packaging.requirements import Requirement

from cvrnet.errors import UserError
from cvrnet.hub.space import push_space, space_files
from tests.support.hub import LocalHub
from tests.support.hub_runs import make_folds

SPACE = "spaces/ada/net"


@pytest.fixture
def folds(tmp_path: Path) -> Path:
    return make_folds(tmp_path / "folds")


def test_the_card_says_what_the_hub_builds() -> None:
    files = space_files("ada/net", "mit")
    assert set(files) == {"app.py", "requirements.txt", "README.md"}
    card = SpaceCard(files["README.md"].decode())
    about = card.data.to_dict()
    assert (about["sdk"], about["sdk_version"], about["app_file"]) == ("gradio", version("gradio"), "app.py")
    assert about["python_version"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert (about["models"], about["license"], about["pinned"]) == (["ada/net"], "mit", False)
    assert "not a medical device" in card.text
    compile(files["app.py"], "app.py", "exec")
    option, requirement = (line for line in files["requirements.txt"].decode().splitlines() if line[0] != "#")
    assert option.startswith("--extra-index-url https://download.pytorch.org/whl/cpu")
    assert Requirement(requirement).name == "cvrnet"
    assert Requirement(requirement).extras == {"demo", "dicom"}


def test_run_and_space_are_pushed_private(hub: LocalHub, folds: Path, cli: Any) -> None:
    status, _, err = cli("push", folds, "ada/net", "--space")
    assert status == 0, err
    assert f"{hub.url}/spaces/ada/net (private)" in err
    assert "HF_TOKEN" in err
    assert hub.repository("ada/net").private
    assert hub.repository(SPACE).private
    there = hub.files(SPACE)
    assert {name: there[name] for name in space_files("ada/net")} == space_files("ada/net")
    assert HfApi().space_info("ada/net").private
    assert cli("push", folds, "ada/net", "--space")[0] == 0, "a repeated push goes on"
    for content in there.values():
        assert str(folds).encode() not in content


def test_public_and_license(hub: LocalHub, folds: Path, cli: Any) -> None:
    status, _, err = cli("push", folds, "ada/net", "--space", "--public", "--license", "mit")
    assert status == 0, err
    assert f"{hub.url}/spaces/ada/net (public)" in err
    assert "HF_TOKEN" not in err
    assert SpaceCard(hub.files(SPACE)["README.md"].decode()).data.license == "mit"
    with pytest.raises(UserError, match="the Space ada/net is public; add --public to push to it anyway"):
        push_space("ada/net")


def test_dry_run_shows_the_files(hub: LocalHub, folds: Path, cli: Any) -> None:
    status, _, err = cli("push", folds, "ada/net", "--space", "--dry-run")
    assert status == 0, err
    assert hub.requests == []
    assert [line.split() for line in err.splitlines() if line.startswith("space")] == [
        ["space", name, str(len(content))] for name, content in sorted(space_files("ada/net").items())
    ]


def test_another_program_stays(hub: LocalHub, folds: Path, cli: Any) -> None:
    hub.add(SPACE, {"app.py": b"print('mine')\n", "notes.txt": b"mine"})
    hub.repository(SPACE).private = True
    with pytest.raises(UserError, match="the Space ada/net holds another program; --overwrite replaces it"):
        push_space("ada/net")
    assert hub.files(SPACE)["app.py"] == b"print('mine')\n"
    push_space("ada/net", overwrite=True)
    assert hub.files(SPACE)["app.py"] == space_files("ada/net")["app.py"]
    assert hub.files(SPACE)["notes.txt"] == b"mine"


@pytest.mark.parametrize(
    ("fault", "message"), [(403, "the token does not allow it"), ("reset", "the connection to"), (500, "HTTP 500")]
)
def test_failures_are_one_line(hub: LocalHub, fault: Any, message: str) -> None:
    hub.fail("POST /api/spaces/ada/net/commit", fault, times=9)
    with pytest.raises(UserError, match=message) as error:
        push_space("ada/net")
    assert "cannot push the Space ada/net" in str(error.value)
    assert "\n" not in str(error.value)
    assert "app.py" not in hub.files(SPACE)


def test_its_program_serves_the_run_from_the_hub(hub: LocalHub, folds: Path, tmp_path: Path, cli: Any) -> None:
    assert cli("push", folds, "ada/net", "--space")[0] == 0
    for name, content in hub.files(SPACE).items():
        (tmp_path / name).write_bytes(content)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = multiprocessing.get_context("fork").Process(target=_run, args=(tmp_path, port))
    program.start()
    try:
        for _ in range(600):
            try:
                page = httpx.get(f"http://127.0.0.1:{port}")
                break
            except httpx.HTTPError:
                assert program.is_alive(), (tmp_path / "stderr").read_text()
                threading.Event().wait(0.1)  # the hub's tests do not sleep
        assert page.status_code == 200
        assert "ada/net: cvrnet demo" in page.text
        assert "2 folds" in page.text
        program.terminate()
        program.join(60)
        assert program.exitcode == 0
        assert (tmp_path / "stderr").read_text() == ""
    finally:
        program.kill()


def _run(folder: Path, port: int) -> None:
    """Run a Space's program in a fork of this process, which has imported PyTorch and Gradio."""
    os.chdir(folder)
    os.environ["GRADIO_SERVER_PORT"] = str(port)
    with (folder / "stderr").open("w") as sys.stderr:
        runpy.run_path("app.py", run_name="__main__")

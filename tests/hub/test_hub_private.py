"""What a push does not tell about the data set, and what a pulled run cannot make this machine read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

import cvrnet
from cvrnet.data import DataSet, read_records
from cvrnet.errors import UserError
from cvrnet.hub.redact import public_run
from cvrnet.hub.staging import stage_run
from cvrnet.onnx import export_onnx
from cvrnet.runs.folder import hash_records
from cvrnet.workflows.soup import make_soup
from tests.support.hub import LocalHub
from tests.support.hub_runs import change_run, make_folds, read_checkpoint

REPO = "ada/net"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folds(tmp_path_factory.mktemp("private") / "run")


@pytest.fixture
def folds(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


# The data set


@pytest.mark.parametrize("data", ["/scans/st-marys-icu", "/scans/st-marys-icu/manifest.csv", "/scans/st-marys-icu.csv"])
def test_the_data_sets_name_is_not_published(hub: LocalHub, folds: Path, data: str) -> None:
    change_run(folds, data=data)
    cvrnet.push_folds(folds, REPO)
    for branch in hub.repository(REPO).branches:
        for name, content in hub.files(REPO, branch).items():
            assert b"st-marys" not in content, name


def pushed_run(hub: LocalHub, repo: str) -> dict[str, Any]:
    return json.loads(hub.files(repo)["run.json"])


def test_the_datas_hash_is_another_one_in_each_repository(hub: LocalHub, folds: Path) -> None:
    local = json.loads((folds / "run.json").read_text())["data_sha256"]
    first = cvrnet.push_folds(folds, REPO)
    cvrnet.push_folds(folds, "ada/other")
    hashes = {pushed_run(hub, repo)["data_sha256"] for repo in (REPO, "ada/other")}
    assert len(hashes | {local}) == 3
    assert all(len(value) == 64 for value in hashes)
    assert cvrnet.push_folds(folds, REPO).commits == first.commits
    assert json.loads((folds / "run.json").read_text())["data_sha256"] == local


def test_the_datas_hash_needs_the_users_key(hub: LocalHub, folds: Path, monkeypatch: pytest.MonkeyPatch, cli) -> None:
    """With the same key, other data are another run; with another key nobody can tell, and the settings decide."""
    monkeypatch.setenv("CVRNET_ID_KEY", "a" * 64)
    first = cvrnet.push_folds(folds, REPO)
    there = pushed_run(hub, REPO)
    monkeypatch.setenv("CVRNET_ID_KEY", "b" * 64)
    assert public_run(json.loads((folds / "run.json").read_text()), REPO)["data_sha256"] != there["data_sha256"]
    assert cvrnet.push_folds(folds, REPO).commits == first.commits
    change_run(folds, data_sha256="1" * 64)
    cvrnet.push_folds(folds, REPO)
    assert pushed_run(hub, REPO) == there
    monkeypatch.setenv("CVRNET_ID_KEY", "a" * 64)
    assert "ada/net holds another run" in cli("push", folds, REPO)[2]


def test_a_run_of_an_earlier_version_is_the_same_run_and_loses_its_plain_hash(hub: LocalHub, folds: Path) -> None:
    cvrnet.push_folds(folds, REPO)
    local = json.loads((folds / "run.json").read_text())["data_sha256"]
    old = {k: v for k, v in pushed_run(hub, REPO).items() if k != "data_key"}
    hub.add(REPO, {"run.json": json.dumps(old | {"data": "manifest.csv", "data_sha256": local}).encode()})
    hub.repository(REPO).commits[hub.repository(REPO).branches["main"]].__dict__["title"] = "cvrnet push: main"
    cvrnet.push_folds(folds, REPO)
    assert local not in hub.files(REPO)["run.json"].decode()
    assert "manifest.csv" not in hub.files(REPO)["run.json"].decode()


def test_a_pulled_run_is_the_same_run_there(hub: LocalHub, folds: Path, tmp_path: Path) -> None:
    commits = cvrnet.push_folds(folds, REPO).commits
    cvrnet.pull_folds(REPO, tmp_path / "pulled")
    assert cvrnet.push_folds(tmp_path / "pulled", REPO).commits == commits
    cvrnet.push_folds(tmp_path / "pulled", "ada/copy")
    assert pushed_run(hub, "ada/copy")["data_sha256"] == pushed_run(hub, REPO)["data_sha256"], "nobody knows the data"


def test_without_a_key_the_hash_is_left_out(folds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("CVRNET_ID_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    assert not {"data_sha256", "data_key"} & stage_run(folds, REPO).run.keys()


def test_a_pulled_runs_data_are_never_opened(
    hub: LocalHub, folds: Path, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run.json may name any file here; the phantoms stand for one that would be readable."""
    hostile = {"data": str(phantoms), "images_root": str(phantoms.parent)}
    hostile["data_sha256"] = hash_records(read_records(phantoms))
    cvrnet.push_folds(folds, REPO)
    hub.add(REPO, {"run.json": json.dumps(pushed_run(hub, REPO) | hostile).encode()})
    hub.add("ada/single", read_checkpoint(folds / "fold-1"))
    hub.add("ada/single", {"run.json": json.dumps({"kind": "train", **hostile}).encode()})
    cvrnet.pull_folds(REPO, tmp_path / "pulled")
    with pytest.raises(UserError, match="pass DATA, the images on which the soup is scored"):
        make_soup(tmp_path / "pulled", tmp_path / "soup", audit=False, maps=False)
    change_run(folds, **hostile)
    asked: list[object] = []

    def check_pixels(preprocessing: object, given: object, trained_on: object) -> None:
        asked.append(trained_on)
        raise UserError("enough")

    monkeypatch.setattr("cvrnet.onnx.export.check_pixels", check_pixels)
    monkeypatch.setattr("cvrnet.onnx.export.trace", lambda network: onnx.ModelProto())
    for model in (tmp_path / "pulled/fold-1", "hf-hub:ada/single", folds / "fold-1"):
        with pytest.raises(UserError, match="enough"):
            export_onnx(model, tmp_path / "a.onnx")
    assert asked == [None, None, DataSet(str(phantoms), str(phantoms.parent))], (
        "only a run of this machine says what is here"
    )

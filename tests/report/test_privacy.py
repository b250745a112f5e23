"""What is given to others tells nothing of the folders of this machine, which have the user's name in them."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from cvrnet.installation import describe_installation
from cvrnet.report import write_report
from cvrnet.report.explanations import maps_section
from cvrnet.training import TrainConfig
from cvrnet.workflows.train import train
from tests.conftest import TINY

TELLTALE = "meyer-anna"


@pytest.fixture(scope="module")
def home(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a user, with a data set whose manifest names some images by their whole paths."""
    home = tmp_path_factory.mktemp(TELLTALE)
    shutil.copytree(phantoms if phantoms.is_dir() else phantoms.parent, home / "chest")
    rows = list(csv.DictReader((home / "chest" / "manifest.csv").read_text().splitlines()))
    for row in rows[:20]:
        row["path"] = str(home / "chest" / row["path"])
    with (home / "chest" / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return home


def telltales(folder: Path) -> set[str]:
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    assert len(found) > 5
    return {path.name for path in found if TELLTALE.encode() in path.read_bytes()}


@pytest.mark.filterwarnings("ignore")
def test_runs(home: Path, cli: Any) -> None:
    config = TrainConfig(**{**TINY, "encoders": ("test_resnet",), "epochs": 1})
    run, data = home / "run", home / "chest" / "manifest.csv"
    train(data, run, config)
    assert telltales(run) == {"run.json"}
    report = (run / "report.html").read_text()
    assert "<td>chest</td>" in report
    assert "Where the network looked" in report
    images = sorted((home / "chest" / "images").rglob("*.png"))
    status, _, err = cli("evaluate", run, data, "-o", home / "evaluated")
    assert status == 0, err
    images[0].write_bytes(b"no image")
    images[1].unlink()
    status, _, err = cli("audit", data, "-o", home / "audited")
    assert status == 0, err
    assert telltales(home / "evaluated") <= {"run.json"}
    assert telltales(home / "audited") == set()
    # Images that are gone, and a model that cannot be read.
    shutil.move(home / "chest", home / "moved")
    write_report(run, [maps_section(run)])
    assert "The images are not where run.json says" in (run / "report.html").read_text()
    assert telltales(run) == {"run.json"}
    shutil.move(home / "moved", home / "chest")
    (run / "model.safetensors").write_bytes(b"damaged")
    write_report(run, [maps_section(run)])
    assert "No maps: " in (run / "report.html").read_text()
    assert telltales(run) == {"run.json"}


def test_doctor_abbreviates_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Any) -> None:
    home = tmp_path / TELLTALE
    home.mkdir()
    (tmp_path / "link").symlink_to(home)
    monkeypatch.setenv("HOME", str(tmp_path / "link"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "link"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "link" / "venv" / "python"))
    found = dict(describe_installation())
    assert found["Hub cache"] == str(Path("~/hub"))
    assert found["python"].endswith(f"({Path('~/venv/python')})")
    status, out, _ = cli("doctor")
    assert status == 0
    assert TELLTALE not in out
    monkeypatch.setenv("HOME", "/")
    assert dict(describe_installation())["Hub cache"] == str(home / "hub")

"""Every example runs, on phantoms and a local Hub."""

import json
import runpy
from pathlib import Path

import pytest

from cvrnet.data import read_records
from cvrnet.encoders import registry
from tests.support.few import draw_few_phantoms
from tests.support.hub import LocalHub
from tests.support.hub_runs import make_folds

EXAMPLES = Path(__file__).parents[2] / "examples"
TESTED = {"quickstart", "custom_encoder", "reuse_head", "finetune_manifest", "push_pull"}


@pytest.fixture
def run_example(tmp_path, monkeypatch, capsys):
    """Runs an example in a folder of its own; what it printed."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", [f"{name}.py", *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_none_is_forgotten():
    gradcam = {"gradcam"}  # with the tests of cvrnet explain
    assert {path.stem for path in EXAMPLES.iterdir() if path.suffix == ".py"} == TESTED | gradcam


@pytest.mark.slow
def test_quickstart(run_example, tmp_path, monkeypatch):
    asked = draw_few_phantoms(monkeypatch, 24)
    out = run_example("quickstart", 2)
    assert asked == [(240, 96)]
    assert "validation accuracy 0." in out
    assert (tmp_path / "run/report.html").is_file()


def test_custom_encoder(run_example, monkeypatch):
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))
    out = run_example("custom_encoder")
    assert "three_stages.stage2          (1, 128, 7, 7)" in out
    assert "logits (1, 3)" in out


def test_reuse_head(run_example):
    assert float(run_example("reuse_head").rsplit(maxsplit=1)[1]) < 1e-6


def test_finetune_manifest(run_example, phantoms, tmp_path):
    settings = {"model": "test_resnet", "pretrained": False, "epochs": 1, "img_size": 64}
    out = run_example("finetune_manifest", phantoms, tmp_path / "run", json.dumps(settings))
    assert out.count("epoch 1: val_loss") == 5
    assert "'fold': 'mean'" in out
    again = run_example("finetune_manifest", phantoms, tmp_path / "run", json.dumps(settings))
    assert "epoch" not in again


def test_push_pull(run_example, hub: LocalHub, phantoms, tmp_path):
    run = make_folds(tmp_path / "folds")
    out = run_example("push_pull", run, "ada/chest", read_records(phantoms)[0].path)
    assert "disagreement 0." in out
    assert "['CVP', 'NCP', 'NOR']" in out
    assert "fold-1 at " in out
    assert (tmp_path / "pulled/fold-2/model.safetensors").is_file()

"""A run whose encoder came from a folder: every command works when the folder is gone, and on what was pushed."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
from timm.models import save_for_hf

from cvrnet.data import read_records, write_phantoms
from cvrnet.training import TrainConfig
from cvrnet.workflows import cross_validate
from tests.conftest import PLAIN, Cli
from tests.support.hub import LocalHub


@pytest.mark.slow
def test_every_command_works_without_the_encoders_folder(tmp_path: Path, cli: Cli, hub: LocalHub) -> None:
    folder = tmp_path / "encoder"
    save_for_hf(timm.create_model("test_resnet", num_classes=7), str(folder))
    data = write_phantoms(tmp_path / "data", 18, size=64)
    image = str(read_records(data)[0].path)
    config = TrainConfig(encoders=(f"local-dir:{folder}",), img_size=64, epochs=1)  # with the folder's weights
    run = tmp_path / "run"
    cross_validate(data, run, config, n_folds=3, **PLAIN)
    shutil.rmtree(folder)

    def ask(*words: object) -> str:
        status, out, err = cli(*map(str, words))
        assert status == 0, err
        return out

    def probabilities(model: object) -> list[float]:
        (row,) = csv.DictReader(ask("predict", model, image, "--format", "csv").splitlines())
        assert row["error"] == ""
        return [float(value) for name, value in row.items() if name.startswith("prob_")]

    expected = probabilities(run)
    ask("explain", run, image, "-o", tmp_path / "maps")
    assert list((tmp_path / "maps").glob("*-figure.png"))
    ask("export", run, "-o", tmp_path / "run.onnx", "--fold", 1)
    np.testing.assert_allclose(probabilities(tmp_path / "run.onnx"), probabilities(run / "fold-1"), atol=1e-5)
    ask("soup", run, "-o", tmp_path / "soup")
    assert sum(probabilities(tmp_path / "soup")) > 0.999

    assert "Nothing was pushed" in cli("push", run, "ada/chest", "--dry-run")[2]
    ask("push", run, "ada/chest")
    assert not [name for name, content in hub.files("ada/chest").items() if str(tmp_path).encode() in content]
    assert json.loads(hub.files("ada/chest")["config.json"])["model_args"]["encoders"] == ["test_resnet"]
    ask("pull", "ada/chest", "-o", tmp_path / "pulled")
    for model in (tmp_path / "pulled", "hf-hub:ada/chest"):
        np.testing.assert_allclose(probabilities(model), expected, atol=1e-6)

"""The source probe finds a difference between sources where there is one, and none where there is none."""

import csv
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from cvrnet.inference import Predictor
from cvrnet.report import source_probe
from cvrnet.report.results import read_results
from cvrnet.runs.layout import SOURCE_PROBE
from cvrnet.training import TrainConfig
from cvrnet.workflows.pages import finish_report
from cvrnet.workflows.train import train
from tests.conftest import PLAIN, TINY


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model, and images of noise: NCP is brighter in source b, CVP is alike in both; one patient has ten images."""
    folder, rng = tmp_path_factory.mktemp("probe"), np.random.default_rng(0)
    lines = ["path,label,source,patient_id"]
    for i in range(120):
        label, source = ("NCP", "CVP")[i % 2], "ab"[i // 2 % 2]
        pixels = rng.integers(0, 100, (64, 64)) + 100 * (label == "NCP" and source == "b")
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{label},{source},{'often' if i >= 80 and i % 4 == 0 else i}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    config = TrainConfig(**{**TINY, "encoders": ("test_resnet",), "epochs": 1})
    train(folder / "manifest.csv", folder / "run", config, **PLAIN)
    return folder / "run"


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_it_tells_a_difference_from_none(run):
    table = rows(run / SOURCE_PROBE)
    assert [(row["label"], row["head"]) for row in table] == [
        (n, f"P{k}") for n in ("CVP", "NCP", "") for k in (1, 2, 3)
    ]
    for row in table:
        auc, low, high = (float(row[key]) for key in ("auc", "low", "high"))
        assert low <= auc <= high
        if row["label"] == "NCP":
            assert low > 0.95
            assert int(row["images"]) == 51, "one image of each patient"
        elif row["label"] == "CVP":
            assert low < 0.5 < high
        else:
            parts = [float(r["auc"]) for r in table if r["head"] == row["head"] and r["label"]]
            assert auc == pytest.approx(np.mean(parts))
    assert "AUC of predicting the source among images of one label" in (run / "report.html").read_text(encoding="utf-8")


def test_inputs_are_those_that_the_heads_classify(run):
    predictor = Predictor.from_pretrained(run)
    paths = [run.parent / f"{i}.png" for i in range(20)]  # more than a batch
    inputs = source_probe._head_inputs(predictor, [*paths, run.parent / "absent.png"])
    assert [*inputs] == paths
    with torch.inference_mode():
        stacked = [torch.from_numpy(np.stack(vectors)) for vectors in zip(*inputs.values(), strict=True)]
        logits = predictor.models[0].head.branch_logits(stacked)
    heads = np.stack([prediction.heads for prediction in predictor(paths, heads=True)], axis=1)
    np.testing.assert_allclose(torch.stack(logits).softmax(-1), heads, atol=1e-5)


def test_its_cost_is_bounded(run, monkeypatch):
    monkeypatch.setattr(source_probe, "MAX_IMAGES", 48)
    groups = source_probe._groups(read_results(run))
    assert {(label, source): len(paths) for label, named in groups.items() for source, paths in named.items()} == {
        (label, source): 12 for label in ("CVP", "NCP") for source in "ab"
    }
    monkeypatch.setattr(source_probe, "MIN_PATIENTS", 26)  # only source b has so many patients with NCP
    assert [*source_probe._groups(read_results(run))] == ["CVP"]


def test_a_model_that_cannot_be_loaded_leaves_the_report_without_a_probe(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "model.safetensors").write_bytes(b"<damaged>")
    finish_report(folder, maps=False)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "No source probe: run holds a checkpoint that cannot be loaded" in page
    assert str(tmp_path) not in page
    assert "AUC of predicting the source among images of one label" not in page
    assert not (folder / SOURCE_PROBE).exists()


def test_a_run_whose_images_are_gone_has_no_probe(run, tmp_path):
    for name in ("run", "manifest.csv"):
        copy = shutil.copytree if (run.parent / name).is_dir() else shutil.copy
        copy(run.parent / name, tmp_path / name)
    (tmp_path / "run" / SOURCE_PROBE).unlink()
    text = (tmp_path / "run/run.json").read_text().replace(str(run.parent), str(tmp_path))
    (tmp_path / "run/run.json").write_text(text)
    assert source_probe.write_source_probe(tmp_path / "run") == ""
    assert not (tmp_path / "run" / SOURCE_PROBE).exists()

"""Runs for the tests of the Hub: real checkpoints and files, made in seconds without training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

import cvrnet  # noqa: F401  # registers the models
from cvrnet.metrics import classification_scores
from cvrnet.runs.checkpoint import save_checkpoint

CLASSES = ["CVP", "NCP", "NOR"]
HIDDEN = (32, 16, 8)  # half the bytes of the usual heads


def make_model(seed: int, **options: object) -> torch.nn.Module:
    """Return a small CVR-Net whose weights and batch-norm statistics depend on the seed."""
    torch.manual_seed(seed)
    settings = {"encoders": ("test_resnet",), "hidden_sizes": HIDDEN, "num_classes": 3, "img_size": 64, **options}
    model = timm.create_model("cvrnet", **settings)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.05)
    return model.eval()


def make_folds(folder: Path, folds: int = 2, seed: int = 0, classes: list[str] | None = None) -> Path:
    """Write a minimal cross-validation: no figures, no predictions, and scores of random predictions."""
    classes = classes or CLASSES
    for fold in range(1, folds + 1):
        rng = np.random.default_rng(seed + fold)
        save_checkpoint(make_model(seed + fold, num_classes=len(classes)), folder / f"fold-{fold}", classes)
        scores = [
            classification_scores(rng.permutation(np.arange(12) % 3), rng.dirichlet(np.ones(3), 12), CLASSES)
            for _ in range(2)
        ]
        (folder / f"fold-{fold}" / "metrics.json").write_text(json.dumps({"val": scores[0], "test": scores[1]}))
    run = {"kind": "crossval", "data": "/home/ada/scans/manifest.csv", "data_sha256": f"{seed:064}", "classes": classes}
    run |= {"images": dict.fromkeys(classes, 4), "test_source": "", "folds": folds, "config": {"model": "cvrnet"}}
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def make_crossval(run: Path, folder: Path, folds: int = 3) -> Path:
    """Write a cross-validation with all its files, from the files of a finished training."""
    from cvrnet.workflows.crossval import collect

    for fold in range(1, folds + 1):
        target = folder / f"fold-{fold}"
        shutil.copytree(run, target, ignore=shutil.ignore_patterns("run.json", "split.csv", "report*"))
        for name in ("metrics.json", "predictions.csv"):  # the images held back stand for those that the fold tests
            text = (target / name).read_text(encoding="utf-8")
            (target / name).write_text(text.replace("independent", "test"), encoding="utf-8")
        torch.manual_seed(fold)
        model = timm.create_model(f"local-dir:{run}", pretrained=True)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 0.05 * torch.randn(()))
        save_checkpoint(model, target, model.pretrained_cfg["label_names"])
    shutil.copy(run / "split.csv", folder)
    description = json.loads((run / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(description | {"kind": "crossval", "folds": folds, "test_source": ""}))
    collect(folder)
    return folder


def change_run(run: Path, **values: Any) -> None:
    """Change values in a run's run.json."""
    path = run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def read_checkpoint(folder: Path) -> dict[str, bytes]:
    """Return the files of a checkpoint: name -> content."""
    return {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}

"""A network of findings gives the same probabilities in every program that loads it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import cvrnet
from cvrnet import Predictor
from cvrnet.data import to_batch
from cvrnet.data.series import Slice
from cvrnet.errors import UserError
from cvrnet.inference.prediction import Prediction
from cvrnet.inference.volumes import add_means
from cvrnet.runs.checkpoint import load_checkpoint, save_checkpoint

FINDINGS = ["Edema", "Effusion", "Mass", "Nodule"]


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    tiny = {"encoders": ("test_resnet",), "img_size": 64}
    model = cvrnet.create_model("cvrnet", num_classes=4, task="multilabel", **tiny)
    with torch.no_grad():
        for block in model.head.blocks:
            block.classifier.weight.mul_(20)  # so that findings differ
    return model.eval()


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("findings")
    for fold in (1, 2):
        save_checkpoint(network(fold), folder / f"fold-{fold}", FINDINGS)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 64), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


def expected(folders: list[Path], images: list[Path]) -> np.ndarray:
    """The mean of all heads' sigmoids in float64, by PyTorch alone."""
    predictor = Predictor.from_pretrained(folders[0], "cpu", "fp32")
    pixels = to_batch([predictor.preprocessing.resize(predictor.preprocessing.read(path)) for path in images])
    x = predictor.preprocessing.normalize(pixels)
    with torch.inference_mode():
        heads = [torch.stack(load_checkpoint(f).branch_logits(x)).double().sigmoid() for f in folders]
    return torch.cat(heads).mean(0).numpy()


def test_the_ensemble_is_the_mean_of_the_sigmoids(folds: Path, images: list[Path]) -> None:
    mean = expected([folds / "fold-1", folds / "fold-2"], images)
    assert np.abs(mean.sum(1) - 1).max() > 0.05
    predictions = Predictor.from_pretrained(folds, "cpu", "fp32")(images)
    np.testing.assert_allclose([p.probabilities for p in predictions], mean, atol=1e-6)
    for prediction, p in zip(predictions, mean, strict=True):
        assert prediction.label == ("|".join(n for n, v in zip(FINDINGS, p, strict=True) if v >= 0.5) or "No Finding")
        both = np.stack([p, 1 - p])
        assert prediction.predictive_entropy == pytest.approx(-(both * np.log(both)).sum(), abs=1e-5)
        assert 0 <= prediction.mutual_information <= prediction.predictive_entropy


def test_timm_loads_it(folds: Path) -> None:
    model = timm.create_model(f"local-dir:{folds / 'fold-1'}", pretrained=True).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        p = torch.stack(model.branch_logits(x)).sigmoid().mean(0)
        torch.testing.assert_close(model(x).sigmoid(), p)
        model.reset_classifier(1)
        assert model(x).shape == (2, 1)


def test_transformers_takes_sigmoids(folds: Path, images: list[Path]) -> None:
    transformers = pytest.importorskip("transformers")
    pipeline = transformers.pipeline("image-classification", model=str(folds / "fold-1"), device="cpu")
    answers = pipeline(Image.open(images[0]).convert("RGB"), top_k=4)
    got = [next(a["score"] for a in answers if a["label"] == name) for name in FINDINGS]
    np.testing.assert_allclose(got, expected([folds / "fold-1"], images[:1])[0], atol=1e-5)


def test_an_onnx_file_gives_the_same(folds: Path, images: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from cvrnet.onnx import export_onnx, load_onnx

    file = tmp_path / "findings.onnx"
    export_onnx(folds, file)
    mean = expected([folds / "fold-1", folds / "fold-2"], images)
    predictor = Predictor.from_pretrained(file, "cpu", "fp32")
    np.testing.assert_allclose([p.probabilities for p in predictor(images)], mean, atol=1e-5)
    pixels = to_batch([predictor.preprocessing.resize(predictor.preprocessing.read(path)) for path in images])
    np.testing.assert_allclose(
        1 / (1 + np.exp(-load_onnx(file, "cpu", "fp32").logits(pixels.numpy()))), mean, atol=1e-5
    )


def test_folds_of_two_tasks_are_no_ensemble(folds: Path) -> None:
    other = cvrnet.create_model("cvrnet_tiny", num_classes=4, img_size=64)
    other.pretrained_cfg["label_names"] = FINDINGS
    one = load_checkpoint(folds / "fold-1")
    with pytest.raises(UserError, match="the folds differ"):
        Predictor([one, other])


def test_the_task_is_in_config_json(folds: Path) -> None:
    config = json.loads((folds / "fold-1" / "config.json").read_text())
    assert config["model_args"]["task"] == "multilabel"
    assert config["problem_type"] == "multi_label_classification"


def test_the_mean_of_a_ct_names_all_findings_above_one_half() -> None:
    slices = [Slice(Path(f"ct/{i}.dcm"), Path("ct"), "p", ("p", "s")) for i in range(2)]
    found = [
        Prediction(s.path, "", np.array(p))
        for s, p in zip(slices, ([0.9, 0.8, 0.1, 0.4], [0.7, 0.4, 0.3, 0.2]), strict=True)
    ]
    mean = [a for a in add_means(zip(slices, found, strict=True), FINDINGS, "multilabel") if a.unit == "patient"]
    assert [a.prediction.label for a in mean] == ["Edema|Effusion"]

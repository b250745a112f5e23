"""Preprocessing: what timm's own transform does with the same settings."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import timm
import timm.data
import torch
from PIL import Image

import cvrnet
from cvrnet.data import ImageCache, Preprocessing
from cvrnet.data.grey import LATEST
from cvrnet.data.preprocessing import INTERPOLATIONS, resize_image, with_grey_version
from cvrnet.errors import UserError

RNG = np.random.default_rng(0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture(height: int, width: int, channels: int) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return RNG.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(224, 224), (97, 97), (48, 64)])
@pytest.mark.parametrize("image_size", [(224, 224), (300, 211), (31, 40), (1, 1)])
def test_equals_timms_transform(interpolation, channels, size, image_size):
    settings = Preprocessing((channels, *size), MEAN[:channels], STD[:channels], interpolation)
    image = picture(*image_size, channels)
    known = ("input_size", "mean", "std", "interpolation")  # how files are read is not timm's
    transform = timm.data.create_transform(
        **{name: getattr(settings, name) for name in known}, crop_pct=1.0, crop_mode="squash"
    )
    resized = settings.resize(image)
    assert resized.shape == (*size, channels)
    assert resized.dtype == np.uint8
    found = settings.normalize(torch.from_numpy(resized).permute(2, 0, 1)[None])[0]
    torch.testing.assert_close(found, transform(Image.fromarray(image)), rtol=0, atol=1e-6)


def test_reads_a_models_cfg():
    model = timm.create_model("test_resnet", pretrained=False)
    found = Preprocessing.from_model(model)
    config = timm.data.resolve_model_data_config(model)
    assert (found.input_size, found.mean, found.std) == (config["input_size"], config["mean"], config["std"])
    assert found.interpolation == config["interpolation"]
    assert found.mode == "RGB"


def test_one_channel():
    grey = Preprocessing((1, 8, 9), (0.5,), (0.25,))
    assert grey.mode == "L"
    assert grey.interpolation == "nearest"
    batch = torch.full((2, 1, 8, 9), 255, dtype=torch.uint8)
    torch.testing.assert_close(grey.normalize(batch), torch.full((2, 1, 8, 9), 2.0))
    assert batch.unique().tolist() == [255]


def test_survives_json():
    settings = Preprocessing((3, 224, 224), MEAN, STD, "bicubic")
    loaded = json.loads(json.dumps(asdict(settings)))
    again = Preprocessing(
        tuple(loaded["input_size"]), tuple(loaded["mean"]), tuple(loaded["std"]), loaded["interpolation"]
    )
    assert again == settings


def test_normalises_where_the_batch_is():
    settings = Preprocessing((1, 4, 4), (0.5,), (0.5,))
    batch = torch.zeros(1, 1, 4, 4, dtype=torch.uint8, device="meta")
    assert settings.normalize(batch).device.type == "meta"
    memory_format = torch.channels_last
    batch = torch.zeros(2, 3, 4, 4, dtype=torch.uint8).to(memory_format=memory_format)
    assert Preprocessing((3, 4, 4), MEAN, STD).normalize(batch).is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_flat_image_stays_flat(interpolation):
    flat = resize_image(np.full((37, 41), 77, np.uint8), (64, 20), interpolation)
    assert flat.shape == (64, 20, 1)
    assert (flat == 77).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((3, 8, 8), MEAN, STD, "cubic"), "interpolation 'cubic' is not known: expected one of nearest, box, bilinear"),
        (
            ((4, 8, 8), MEAN, STD),
            r"input size \(4, 8, 8\) is not possible: expected \(channels, height, width\), with 1 or 3 channels",
        ),
        (((3, 0, 8), MEAN, STD), r"input size \(3, 0, 8\) is not possible"),
        (((1, 8, 8), MEAN, STD), "do not fit 1 channels"),
        (((1, 8, 8), (0.5,), (0.0,)), "do not fit 1 channels"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(UserError, match=message):
        Preprocessing(*arguments)


def test_the_grey_version_travels_with_a_cfg():
    """In ``notes``, because timm refuses a cfg with fields of its own making."""
    model = timm.create_model("test_resnet", pretrained=False)
    assert Preprocessing.from_model(model).grey_version == 1
    model.pretrained_cfg = with_grey_version({**model.pretrained_cfg, "notes": ("kept",)}, 2)
    assert Preprocessing.from_model(model).grey_version == 2
    timm.models.PretrainedCfg(**model.pretrained_cfg)
    assert with_grey_version(model.pretrained_cfg, 1)["notes"] == ("kept", "cvrnet.grey_version=1")
    for name in cvrnet.list_models():
        new = Preprocessing.from_model(timm.create_model(name, pretrained=False, encoders=("test_resnet",)))
        assert new.grey_version == (1 if name == "cvrnet_keras" else LATEST)


@pytest.mark.parametrize("version", [3, "x", "9" * 5000])
def test_an_unknown_grey_version_is_refused(version):
    model = timm.create_model("test_resnet", pretrained=False)
    model.pretrained_cfg = with_grey_version(model.pretrained_cfg, version)
    with pytest.raises(UserError, match=r"^grey_version='.{1,20}; expected one of 1, 2$"):
        Preprocessing.from_model(model)
    for notes in (5, {"a": 1}, [None, 3], "text", None):
        model.pretrained_cfg = {**model.pretrained_cfg, "notes": notes}
        assert Preprocessing.from_model(model).grey_version == 1


def test_reads_as_its_model_was_trained(tmp_path):
    deep = np.linspace(0, 4000, 64 * 64).reshape(64, 64).astype(np.uint16)
    deep[5, 5] = 65535
    Image.fromarray(deep).save(tmp_path / "a.png")
    settings = Preprocessing((1, 8, 8), (0.5,), (0.5,))
    np.testing.assert_array_equal(settings.read(tmp_path / "a.png"), np.minimum(deep >> 4, 255))
    old = replace(settings, grey_version=1)
    np.testing.assert_array_equal(old.read(tmp_path / "a.png"), deep >> 8)
    caches = [ImageCache((64, 64), folder=tmp_path, grey_version=version) for version in (1, 2)]
    for cache, version in zip(caches * 2, (old, settings) * 2, strict=True):  # from the files, then from the cache
        np.testing.assert_array_equal(cache.load(tmp_path / "a.png")[..., 0], version.read(tmp_path / "a.png"))

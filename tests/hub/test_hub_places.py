"""Where users already are: a name or an address of the Hub pasted, a cache that cannot be written, transformers."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
from huggingface_hub import ModelCard, constants

import cvrnet
from cvrnet import Predictor
from cvrnet.errors import UserError
from cvrnet.hub.space import preview_push
from cvrnet.hub.staging import stage_run
from cvrnet.runs.checkpoint import save_checkpoint
from cvrnet.runs.hub_download import hint, hub_checkpoints
from cvrnet.training import TrainConfig
from cvrnet.training.model import create_for_training
from cvrnet.workflows import train
from tests.conftest import PLAIN, TINY
from tests.support.hub import LocalHub
from tests.support.hub_runs import CLASSES, make_folds, make_model
from tests.support.privileges import permissions_hold

REPO = "ada/net"


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folds(tmp_path_factory.mktemp("places") / "run")


# Names and addresses


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("me/chest", "me/chest"),
        ("me/chest@fold-2", "me/chest@fold-2"),
        ("https://huggingface.co/me/chest", "me/chest"),
        ("https://huggingface.co/me/chest/", "me/chest"),
        ("https://huggingface.co/me/chest?library=timm", "me/chest"),
        ("https://huggingface.co/me/chest#how-to-load", "me/chest"),
        ("https://huggingface.co/me/chest/tree/main", "me/chest"),
        ("https://huggingface.co/me/chest/tree/fold-2", "me/chest@fold-2"),
        ("https://huggingface.co/me/chest/blob/v1.0/config.json", "me/chest@v1.0"),
        ("https://huggingface.co/me/chest/resolve/refs%2Fpr%2F1/config.json", "me/chest@refs/pr/1"),
        ("https:/huggingface.co/me/chest", "me/chest"),  # as pathlib writes it
        ("http://www.huggingface.co/me/chest", "me/chest"),
        ("huggingface.co/me/chest", "me/chest"),
        ("hf.co/me/chest", "me/chest"),
        ("hf://me/chest@fold-2", "me/chest@fold-2"),
        ("hf-hub:https://huggingface.co/me/chest", "me/chest"),
        ("https://huggingface.co/spaces/me/chest", "me/chest"),  # the Space of a model has its name
        ("ENDPOINT/me/chest/tree/fold-2", "me/chest@fold-2"),
    ],
)
def test_what_looks_like_a_repository_is_hinted_at(text: str, meant: str, cli: Any, image: Path) -> None:
    text = text.replace("ENDPOINT", constants.ENDPOINT)  # whose port differs between the processes that run tests
    assert hint(text) == f"; for a repository on the Hugging Face Hub: hf-hub:{meant}"
    status, _, err = cli("predict", text, image)
    assert (status, err.count("\n")) == (1, 1)
    assert err.endswith(f"; for a repository on the Hugging Face Hub: hf-hub:{meant}\n")


@pytest.mark.parametrize(
    "text",
    [
        *("chest", "./me/chest", "/me/chest", "~/me/chest", "../chest", "runs/me/chest", "me/ches t", "me/"),
        *("https://example.org/me/chest", "https://evil.example/huggingface.co/me/chest"),
        *(f"https://huggingface.co/{page}" for page in ("me", "datasets/me/chest", "docs/hub/index")),
    ],
)
def test_other_texts_are_not(text: str, cli: Any, image: Path) -> None:
    assert hint(text) == ""
    status, _, err = cli("predict", text, image)
    assert (status, err.count("\n"), "hf-hub:" in err) == (1, 1, False)


def test_every_command_hints(cli: Any, tmp_path: Path, folds: Path, image: Path) -> None:
    address = "https://huggingface.co/me/chest/tree/fold-2"
    for arguments in (
        ("explain", address, image, "-o", tmp_path / "o"),
        ("export", address, "-o", tmp_path / "o.onnx"),
        ("soup", address, "-o", tmp_path / "o"),
        ("pull", address, "-o", tmp_path / "o"),
        ("push", folds, address),
    ):
        status, _, err = cli(*arguments)
        assert (status, err.count("\n")) == (1, 1), arguments
        assert "hf-hub:me/chest@fold-2" in err, arguments
    with pytest.raises(UserError, match=r"hf-hub:me/chest$"):
        create_for_training(TrainConfig(model="me/chest"), 3)
    assert not (tmp_path / "o").exists()


# Caches


def locked(folder: Path) -> Path:
    """A folder that cannot be written, with all that is in it."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o555)
    return folder


@pytest.mark.parametrize("place", ["cache", "home", "file"])
def test_a_cache_that_cannot_be_written(
    either_hub: LocalHub,
    folds: Path,
    cli: Any,
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    cvrnet.push_folds(folds, REPO)
    tmp_path = image.parent
    (tmp_path / "home/hub").mkdir(parents=True)
    if place == "file":
        (tmp_path / "home/hub").rmdir()
        (tmp_path / "home/hub").touch()
    cache = tmp_path / ("home/hub" if place == "cache" else "home/hub/hub")
    locked(tmp_path / "home")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    reason = "Not a directory" if place == "file" else "Permission denied"
    expected = (
        f"the cache {cache} cannot be written ({reason}); nothing was changed; set HF_HOME to a folder that can be"
    )
    with permissions_hold():
        for arguments in (("predict", f"hf-hub:{REPO}", image), ("pull", REPO, "-o", tmp_path / "pulled")):
            status, _, err = cli(*arguments)
            assert (status, expected in err.splitlines()[-1]) == (1, True), err


def test_a_cache_that_cannot_be_written_but_has_all(
    either_hub: LocalHub, folds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cvrnet.push_folds(folds, REPO)
    there = hub_checkpoints(REPO)
    locked(Path(constants.HF_HUB_CACHE))
    with permissions_hold():
        assert hub_checkpoints(REPO) == there
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert hub_checkpoints(REPO) == there


def test_a_folder_of_results_that_cannot_be_written_is_no_cache(
    hub: LocalHub, folds: Path, cli: Any, tmp_path: Path
) -> None:
    cvrnet.push_folds(folds, REPO)
    (tmp_path / "here").mkdir()
    locked(tmp_path / "here")
    with permissions_hold():
        status, _, err = cli("pull", REPO, "-o", tmp_path / "here/run")
    assert (status, "Permission denied" in err, "HF_HOME" in err) == (1, True, False)
    assert str(tmp_path / "here") in err


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
@pytest.mark.parametrize("revision", ["", "@fold-1", f"@{'0' * 40}"])
def test_offline_and_not_in_the_cache(
    hub: LocalHub, cli: Any, image: Path, monkeypatch: pytest.MonkeyPatch, variable: str, revision: str
) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    status, _, err = cli("predict", f"hf-hub:{REPO}{revision}", image)
    assert (status, err.count("\n")) == (1, 1)
    assert f"its files are not in the cache {constants.HF_HUB_CACHE}, and {variable}=1 forbids asking the Hub" in err
    assert "set HF_HOME to a cache that has these files, or unset it" in err


def test_offline_a_push_says_so(hub: LocalHub, folds: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    status, _, err = cli("push", folds, REPO)
    assert (status, "HF_HUB_OFFLINE=1 forbids asking the Hub" in err, "cache" in err) == (1, True, False)


@pytest.mark.parametrize("why", ["offline", "read-only"])
@pytest.mark.parametrize("model", ["cvrnet", "test_resnet.r160_in1k"])
def test_weights_to_start_from_that_cannot_be_had(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str, model: str
) -> None:
    hub.add("timm/test_resnet.r160_in1k", {"model.safetensors": b"weights", "config.json": b"{}"})
    if why == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(locked(Path(tmp_path)) / "hub"))
    encoders = ("test_resnet",) if model == "cvrnet" else ()
    with permissions_hold(), pytest.raises(UserError) as error:
        create_for_training(TrainConfig(model=model, encoders=encoders, img_size=64), 3)
    said = {"offline": "HF_HUB_OFFLINE=1 forbids asking the Hub; unset it", "read-only": "set HF_HOME to a folder"}
    assert said[why] in str(error.value)
    assert "timm/test_resnet.r160_in1k" in str(error.value)
    assert "pretrained=False" in str(error.value)


# transformers


@pytest.mark.parametrize("name", ["cvrnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_a_folder_on_this_machine_works_in_transformers(tmp_path: Path, image: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    options = {"encoders": ("test_resnet",), "img_size": 64} if name == "cvrnet" else {}
    model = timm.create_model(name, num_classes=3, **options).eval()
    model.pretrained_cfg |= {"crop_pct": 1.0, "crop_mode": "squash"}  # as every training sets them
    save_checkpoint(model, tmp_path / "run", CLASSES)
    pipeline = transformers.pipeline("image-classification", model=str(tmp_path / "run"), device="cpu")
    given = {row["label"]: row["score"] for row in pipeline(str(image), function_to_apply="softmax")}
    ours = Predictor.from_pretrained(tmp_path / "run", dtype="fp32")([image])[0].probabilities
    assert given == pytest.approx(dict(zip(CLASSES, ours, strict=True)), abs=1e-5)


def test_the_pushed_configuration_is_the_saved_one(folds: Path) -> None:
    for name, files in stage_run(folds, REPO).folds.items():
        assert files["config.json"] == (folds / name / "config.json").read_bytes() + b"\n"


def test_the_card_of_a_model_for_one_channel_shows_what_runs(
    hub: LocalHub, tmp_path: Path, folds: Path, image: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    save_checkpoint(make_model(0, in_chans=1), tmp_path / "grey/fold-1", CLASSES)
    shutil.copy(folds / "run.json", tmp_path / "grey")
    cvrnet.push_folds(tmp_path / "grey", REPO)
    grey, colour = hub.files(REPO)["README.md"].decode(), stage_run(folds, REPO).card.decode()
    for text, expected in ((grey, False), (colour, True)):
        card = ModelCard(text)
        assert ("transformers" in card.data.tags, "pipeline(" in card.text) == (expected, expected)
    (snippet,) = re.findall(r"^```python\n(.*?)^```", grey, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(image.parent)
    exec(compile(snippet, "README.md", "exec"), {})
    assert str(CLASSES) in capsys.readouterr().out


def test_run_and_card_say_where_the_weights_came_from(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a resumption, which makes no new start."""
    config, origin = TrainConfig(**{**TINY, "epochs": 1}), "timm/x (Hugging Face Hub)"
    monkeypatch.setattr("cvrnet.workflows.job.pretrained_from", lambda model: [origin])
    train(phantoms, tmp_path / "run", config, **PLAIN)
    train(phantoms, tmp_path / "run", replace(config, epochs=2), resume=True, **PLAIN)
    assert json.loads((tmp_path / "run/run.json").read_text())["pretrained_from"] == [origin]
    options: Any = {"folds": (), "with_predictions": False, "license": "", "space": False}
    assert f"Pretrained weights: {origin}" in preview_push(tmp_path / "run", "me/x", **options)[0].replace("\\", "")

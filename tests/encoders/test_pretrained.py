"""``pretrained=True`` with the real Hub client, in processes of their own, against a local Hub with small stand-ins."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save
from torch import Tensor

import cvrnet
from cvrnet.encoders import create_encoder, hub_repository
from tests.support.hub import Fault, LocalHub

PAIR = ("test_resnet", "test_efficientnet")
OTHER_PAIR = ("test_byobnet", "test_convnext")
PAPERS_PAIR = ("resnet50", "legacy_xception")


def repository(name: str) -> str:
    return hub_repository(name) or pytest.fail(f"timm has no weights for {name}")


def weights(name: str) -> dict[str, Tensor]:
    """A timm model's state, the same for the same name."""
    torch.manual_seed(len(name))
    return timm.create_model(name).state_dict()


def run(code: str, endpoint: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code with the Hub client pointed at ``endpoint`` and its caches below ``home``."""
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING_FACE"))}
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home / "hf"),
        "TORCH_HOME": str(home / "torch"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
    }
    code = f"import cvrnet, timm, torch\nfrom safetensors.torch import save_model\n{code}"
    command = [sys.executable, "-W", "ignore", "-c", code]
    environment = keep | settings | environment
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=300)


def expect_error(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    lines = [line for line in result.stderr.splitlines() if line.startswith("cvrnet.errors.UserError: ")]
    assert len(lines) == 1, result.stderr
    for part in parts:
        assert part in lines[0]


def encoder_state(file: Path, index: int) -> dict[str, Tensor]:
    """What a saved CVRNet has in one of its encoders."""
    prefix = f"encoders.{index}."
    return {key.removeprefix(prefix): value for key, value in load_file(file).items() if key.startswith(prefix)}


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        for name in (*PAIR, *OTHER_PAIR, *PAPERS_PAIR):
            hub.add(repository(name), {"model.safetensors": save(weights(name))})
        yield hub


@dataclass
class Loaded:
    """What a process did that had a Hub to ask: its folder, and the requests."""

    folder: Path
    requests: list[tuple[str, str]]
    trained: dict[str, Tensor]


@pytest.fixture(scope="module")
def loaded(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("home")
    trained = cvrnet.create_model("cvrnet", encoders=OTHER_PAIR, num_classes=2)
    timm.models.save_for_hf(trained, str(folder / "trained"), safe_serialization=True)
    result = run(
        f"""
def create(file, *args, **options):
    model = timm.create_model(*args, **options)
    save_model(model, file)
    return model

create("trained.safetensors", "local-dir:trained", pretrained=True)
create("fresh.safetensors", "local-dir:trained")
create("colour.safetensors", "cvrnet", pretrained=True, encoders={PAIR}, num_classes=2)
create("paper.safetensors", "cvrnet", pretrained=True, num_classes=2)
grey = create("grey.safetensors", "cvrnet", pretrained=True, encoders={PAIR}, in_chans=1, cache_dir="elsewhere")
assert [len(grey.pretrained_cfg[key]) for key in ("mean", "std")] == [1, 1]
""",
        hub.url,
        folder,
    )
    assert result.returncode == 0, result.stderr
    return Loaded(folder, list(hub.requests), trained.state_dict())


@pytest.mark.parametrize("index", [0, 1], ids=PAIR)
def test_encoder_weights_are_those_of_the_hub_bit_for_bit(loaded: Loaded, index: int) -> None:
    source = weights(PAIR[index])
    state = encoder_state(loaded.folder / "colour.safetensors", index)
    assert len(state) > 50
    for key, value in state.items():
        name = key.removeprefix("backbone.")
        assert torch.equal(value, source[name if name in source else name.replace("_", ".", 1)]), key


def test_the_papers_pair_comes_from_both_repositories(loaded: Loaded) -> None:
    for name in PAPERS_PAIR:
        assert ("HEAD", f"/{repository(name)}/resolve/main/model.safetensors") in loaded.requests
    resnet, xception = (encoder_state(loaded.folder / "paper.safetensors", i) for i in (0, 1))
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
    colour = encoder_state(loaded.folder / "colour.safetensors", index)[stem]
    grey = encoder_state(loaded.folder / "grey.safetensors", index)[stem]
    assert grey.shape[1] == 1
    torch.testing.assert_close(grey, colour.sum(1, keepdim=True))


def test_head_is_random_and_cache_dir_is_used(loaded: Loaded) -> None:
    colour, grey = (load_file(loaded.folder / f"{name}.safetensors") for name in ("colour", "grey"))
    assert colour["head.blocks.0.classifier.weight"].shape == (2, 64)
    assert not torch.equal(colour["head.blocks.0.hidden.0.weight"], grey["head.blocks.0.hidden.0.weight"])
    cached = {path.name for path in (loaded.folder / "elsewhere").glob("models--*")}
    assert cached == {f"models--{repository(name).replace('/', '--')}" for name in PAIR}


def test_whole_model_weights_never_touch_the_encoders_repositories(loaded: Loaded) -> None:
    assert not [path for _, path in loaded.requests for name in OTHER_PAIR if repository(name) in path]
    trained, fresh = (load_file(loaded.folder / f"{name}.safetensors") for name in ("trained", "fresh"))
    assert trained.keys() == fresh.keys() == loaded.trained.keys()
    assert all(torch.equal(trained[key], value) for key, value in loaded.trained.items())
    assert not all(torch.equal(fresh[key], value) for key, value in loaded.trained.items())


def test_offline_what_was_downloaded_loads_and_the_rest_is_one_error(hub: LocalHub, loaded: Loaded) -> None:
    url = str(timm.get_pretrained_cfg("legacy_xception").url)  # type: ignore[union-attr]
    state = weights("legacy_xception")
    state["conv1.weight"] += 1  # another file than the Hub's
    downloads = loaded.folder / "downloads"  # where timm's own download of this address goes
    downloads.mkdir()
    torch.save(state, downloads / url.rsplit("/", 1)[-1])
    asked = len(hub.requests)
    result = run(
        f"""
create = lambda **options: timm.create_model("cvrnet", pretrained=True, **options)
save_model(create(encoders={PAIR}, num_classes=2), "offline.safetensors")
save_model(create(encoders="legacy_xception", cache_dir="downloads"), "xception.safetensors")
create(cache_dir="empty")
""",
        hub.url,
        loaded.folder,
        HF_HUB_OFFLINE="1",
    )
    expect_error(result, *map(repository, PAPERS_PAIR), "pretrained=False", "OfflineModeIsEnabled")
    assert len(hub.requests) == asked
    for index in (0, 1):
        online, offline = (
            encoder_state(loaded.folder / f"{name}.safetensors", index) for name in ("colour", "offline")
        )
        assert all(torch.equal(online[key], offline[key]) for key in online)
    xception = encoder_state(loaded.folder / "xception.safetensors", 0)
    assert torch.equal(xception["stem.0.weight"], state["conv1.weight"])


def test_no_network_is_one_error_at_once(tmp_path: Path) -> None:
    with LocalHub() as gone:
        endpoint = gone.url
    code = """
import time
start = time.monotonic()
try:
    timm.create_model("cvrnet", pretrained=True)
finally:
    print(time.monotonic() - start)
"""
    result = run(code, endpoint, tmp_path)
    expect_error(result, *map(repository, PAPERS_PAIR), "pretrained=False", "ConnectError")
    assert float(result.stdout) < 15, "the client's own retries take 47 s"


def test_every_fault_of_the_hub_is_the_same_kind_of_error(hub: LocalHub, tmp_path: Path) -> None:
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
    names = [*faults, "test_efficientnet_gn", no_repository, no_weights]
    code = f"""
for name in {names}:
    try:
        timm.create_model("cvrnet", pretrained=True, encoders=({PAIR[0]!r}, name))
    except ValueError as error:
        print(type(error).__name__, error)
"""
    result = run(code, hub.url, tmp_path, HF_HUB_ETAG_TIMEOUT="1")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == len(names), result.stdout
    for name, line in zip(names, lines, strict=True):
        assert line.startswith(f"UserError cannot load the pretrained weights of encoder {name!r}: ")
        assert repository(PAIR[0]) in line
        assert (hub_repository(name) or f"weights for {name}") in line
        assert "pretrained=False" in line

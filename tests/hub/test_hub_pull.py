"""Pulling and loading: every way leads to the same numbers, from the Hub or from the cache, and from nothing unsafe."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save

import cvrnet
from cvrnet import Predictor
from cvrnet.data import write_phantoms
from cvrnet.errors import UserError
from cvrnet.hub import hub_checkpoints
from cvrnet.runs.checkpoint import load_checkpoint, save_checkpoint
from cvrnet.training import TrainConfig
from cvrnet.workflows.train import train
from tests.conftest import PLAIN
from tests.support.folds import small_fold
from tests.support.hub import LocalHub
from tests.support.hub_runs import CLASSES, make_folds, make_model


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folds(tmp_path_factory.mktemp("small") / "run")


def answers(model: Any, image: Path) -> np.ndarray:
    return Predictor.from_pretrained(model, dtype="fp32")([image])[0].probabilities


def same_weights(model: torch.nn.Module, file: Path) -> bool:
    saved, state = load_file(file), model.state_dict()
    return saved.keys() == state.keys() and all(torch.equal(saved[name], state[name]) for name in saved)


def test_a_pulled_run_is_the_run(either_hub: LocalHub, crossval: Path, tmp_path: Path, cli) -> None:
    pushed = cvrnet.push_folds(crossval, "ada/net")
    status, out, err = cli("pull", "ada/net", "-o", tmp_path / "pulled")
    assert status == 0, err
    for commit in pushed.commits.values():
        assert commit in out
    for fold in (1, 2, 3):
        for name in ("model.safetensors", "metrics.json", "figures/roc.png", "history.csv"):
            assert (tmp_path / f"pulled/fold-{fold}" / name).exists(), name
        one, other = (folder / f"fold-{fold}/model.safetensors" for folder in (crossval, tmp_path / "pulled"))
        assert one.read_bytes() == other.read_bytes()
    pulled = tmp_path / "pulled"
    assert json.loads((pulled / "summary.json").read_text()) == json.loads((crossval / "summary.json").read_text())
    assert json.loads((pulled / "hub.json").read_text())["folds"] == {
        name: commit for name, commit in pushed.commits.items() if name != "main"
    }
    assert cli("push", pulled, "ada/again")[0] == 0, "and it can be pushed on"
    assert cli("pull", "ada/net", "-o", pulled)[0] == 1, "nothing is overwritten unasked"
    assert cli("pull", "ada/net", "-o", pulled, "--overwrite", "--fold", 2)[0] == 0
    assert [path.name for path in pulled.glob("fold-*")] == ["fold-2"]
    assert not list(tmp_path.glob(".pulled*"))


def test_references_mean_all_folds_or_one(hub: LocalHub, small: Path, image: Path, tmp_path: Path, cli) -> None:
    pushed = cvrnet.push_folds(small, "ada/net", tag="v1")
    whole, one = answers(small, image), answers(small / "fold-2", image)
    assert np.array_equal(answers("hf-hub:ada/net", image), whole)
    assert np.array_equal(answers("hf-hub:ada/net@v1", image), whole)
    assert np.array_equal(answers(f"hf-hub:ada/net@{pushed.commits['main']}", image), whole)
    assert np.array_equal(answers("hf-hub:ada/net@fold-2", image), one)
    assert np.array_equal(answers(f"hf-hub:ada/net@{pushed.commits['fold-2']}", image), one)
    chosen = Predictor.from_pretrained("hf-hub:ada/net", dtype="fp32", folds=[2])([image])[0].probabilities
    assert np.array_equal(chosen, one)
    cvrnet.pull_folds("ada/net@fold-2", tmp_path / "fold")
    assert np.array_equal(answers(tmp_path / "fold", image), one)
    for reference, reason in {
        "hf-hub:ada/net@fold-9": "no such branch, tag or commit",
        "hf-hub:ada/nothing": "no such repository",
        "hf-hub:ada": "expected user/repo",
        "hf-hub:ada/net@": "expected user/repo",
    }.items():
        status, _, err = cli("predict", reference, image)
        assert (status, err.count("Error: ")) == (1, 1)
        assert reason in err
    assert "ada/net has no fold-7; expected some of fold-1, fold-2" in cli("pull", "ada/net", "--fold", 7)[2]


def test_every_command_takes_a_reference_or_a_pulled_run(hub: LocalHub, tmp_path: Path, cli) -> None:
    phantoms = write_phantoms(tmp_path / "phantoms", 12, size=64)
    folds = make_folds(tmp_path / "folds")
    for fold in (1, 2):  # the network that is traced for other tests, too
        save_checkpoint(small_fold(fold), folds / f"fold-{fold}", CLASSES)
    cvrnet.push_folds(folds, "ada/net")
    picture = next((phantoms.parent / "images").rglob("*.png"))
    pulled = tmp_path / "pulled"
    cvrnet.pull_folds("ada/net", pulled)
    assert np.array_equal(answers(pulled, picture), answers(folds, picture))
    maps, evaluation, audit = (tmp_path / name for name in ("maps", "evaluation", "audit"))
    for arguments in (
        ("predict", pulled, picture, "--folds", 2),
        ("explain", "hf-hub:ada/net", picture, "-o", maps),
        ("evaluate", "hf-hub:ada/net", phantoms, "-o", evaluation, "--no-audit"),
        ("evaluate", pulled, phantoms, "-o", tmp_path / "again", "--no-audit"),
        ("audit", phantoms, "--model", pulled, "-o", audit),
    ):
        status, _, err = cli(*arguments)
        assert status == 0 or (arguments[0] == "audit" and "Error" not in err), err
    assert list(maps.rglob("*.png"))
    assert (evaluation / "report.html").is_file()
    assert (audit / "model-by-source.csv").is_file()
    model = "hf-hub:ada/net@fold-2"
    status, _, err = cli("export", model, "-o", tmp_path / "model.onnx", "--check-images", phantoms)
    assert status == 0, err
    assert np.allclose(answers(tmp_path / "model.onnx", picture), answers(model, picture), atol=1e-4)


def test_an_older_state_stays_whole(hub: LocalHub, tmp_path: Path, image: Path) -> None:
    old, new = make_folds(tmp_path / "old"), make_folds(tmp_path / "new", seed=9)
    cvrnet.push_folds(old, "ada/net", tag="v1")
    cvrnet.push_folds(new, "ada/net", overwrite=True)
    assert np.array_equal(answers("hf-hub:ada/net@v1", image), answers(old, image))
    assert np.array_equal(answers("hf-hub:ada/net", image), answers(new, image))


def test_plain_timm_loads_it_bit_for_bit(either_hub: LocalHub, small: Path) -> None:
    cvrnet.push_folds(small, "ada/net")
    for fold in (1, 2):
        model = timm.create_model(f"hf-hub:ada/net@fold-{fold}", pretrained=True)
        assert same_weights(model, small / f"fold-{fold}/model.safetensors")
        cfg: Any = model.pretrained_cfg
        assert list(cfg["label_names"]) == CLASSES
        ours: Any = load_checkpoint(small / f"fold-{fold}").pretrained_cfg
        for key in ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode"):
            assert tuple(np.atleast_1d(cfg[key])) == tuple(np.atleast_1d(ours[key])), key


def test_what_timm_pushed_can_be_pulled(either_hub: LocalHub, image: Path, tmp_path: Path, cli) -> None:
    model = make_model(5)
    config = {"label_names": CLASSES}
    timm.models.push_to_hf_hub(model, "ada/theirs", model_config=config, safe_serialization=True, private=True)
    assert cli("pull", "ada/theirs", "-o", tmp_path / "theirs")[0] == 0
    assert same_weights(load_checkpoint(tmp_path / "theirs"), tmp_path / "theirs/model.safetensors")
    save_checkpoint(model, tmp_path / "ours", CLASSES)
    assert np.array_equal(answers(tmp_path / "theirs", image), answers(tmp_path / "ours", image))
    assert np.array_equal(answers("hf-hub:ada/theirs", image), answers(tmp_path / "ours", image))


def test_the_cards_code_runs_as_it_stands(hub: LocalHub, crossval: Path, image: Path, monkeypatch, capsys, cli) -> None:
    pytest.importorskip("transformers")
    cvrnet.push_folds(crossval, "ada/card-net")
    monkeypatch.chdir(image.parent)
    card = hub.files("ada/card-net")["README.md"].decode()
    snippets = re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    commands = re.findall(r"^```bash\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    assert (len(snippets), len(commands)) == (2, 1)
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert Predictor.from_pretrained(crossval)([image])[0].label in printed
    assert "['CVP', 'NCP', 'NOR']" in printed
    for command in commands[0].splitlines():
        status, _, err = cli(*command.split()[1:])
        assert status == 0, err


def test_transformers_gives_the_same_labels_and_probabilities(hub: LocalHub, run: Path, image: Path) -> None:
    transformers = pytest.importorskip("transformers")
    cvrnet.push_folds(run, "ada/pipeline-net")
    expected = dict(zip(("CVP", "NCP", "NOR"), answers(run, image), strict=True))
    model = transformers.AutoModelForImageClassification.from_pretrained("ada/pipeline-net")
    assert dict(model.config.id2label) == {0: "CVP", 1: "NCP", 2: "NOR"}
    assert same_weights(model.timm_model, run / "model.safetensors")
    pipeline = transformers.pipeline("image-classification", model="ada/pipeline-net", device="cpu")
    with Image.open(image) as opened:
        given = {row["label"]: row["score"] for row in pipeline(opened.convert("RGB"), function_to_apply="softmax")}
    assert given == pytest.approx(expected, abs=1e-5)


def test_training_goes_on_from_the_hub(hub: LocalHub, small: Path, tmp_path: Path, monkeypatch) -> None:
    phantoms = write_phantoms(tmp_path / "phantoms", 12, size=64)
    cvrnet.push_folds(small, "ada/net")
    config = TrainConfig(model="hf-hub:ada/net@fold-2", img_size=64, epochs=1, lr=1e-12)
    train(phantoms, tmp_path / "run", config, **PLAIN)
    before, after = load_checkpoint(small / "fold-2"), load_checkpoint(tmp_path / "run")
    for name, parameter in before.named_parameters():
        torch.testing.assert_close(after.get_parameter(name), parameter, atol=1e-6, rtol=0)
    assert str(constants.HF_HUB_CACHE) not in (tmp_path / "run/config.json").read_text()


@pytest.mark.parametrize("gone", ["offline", "down", "503"])
def test_without_the_hub_the_cache_serves_and_says_which_commit(
    either_hub: LocalHub, small: Path, image: Path, tmp_path: Path, monkeypatch, caplog, cli, gone: str
) -> None:
    commit = cvrnet.push_folds(small, "ada/net").commits["main"]
    before = answers("hf-hub:ada/net", image)
    if gone == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif gone == "down":
        either_hub.stop()
    else:
        either_hub.fail("", 503, times=10**6)
    with caplog.at_level(logging.WARNING, "cvrnet"):
        assert np.array_equal(answers("hf-hub:ada/net", image), before)
    (said,) = [r.getMessage() for r in caplog.records if r.name.startswith("cvrnet")]
    assert "from the cache" in said
    assert commit in said
    status, _, err = cli("predict", "hf-hub:ada/other", image)
    assert (status, err.count("Error: ")) == (1, 1)
    said = {"offline": "HF_HUB_OFFLINE=1", "down": "connection to http://127", "503": "HTTP 503"}
    assert said[gone] in err
    status, out, err = cli("pull", "ada/net", "-o", tmp_path / "pulled")
    assert commit in out if status == 0 else "not in the cache" in err or "Hub" in err


def test_offline_a_pulled_run_is_pulled_again_from_the_cache(
    either_hub: LocalHub, small: Path, tmp_path: Path, monkeypatch, cli
) -> None:
    cvrnet.push_folds(small, "ada/net", tag="v1")
    for reference in ("ada/net", "ada/net@v1"):
        assert cli("pull", reference, "-o", tmp_path / "one", "--overwrite")[0] == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(either_hub.requests)
    for reference in ("ada/net", "ada/net@v1"):
        status, _, err = cli("pull", reference, "-o", tmp_path / "two", "--overwrite")
        assert status == 0, err
    assert len(either_hub.requests) == asked
    assert "HF_HUB_OFFLINE=1" in json.loads((tmp_path / "two/hub.json").read_text())["stale"]
    for path in (tmp_path / "one").rglob("*.*"):
        if path.is_file() and path.name != "hub.json":
            assert (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes() == path.read_bytes()


# What is not safe to read


@pytest.fixture
def parts(small: Path) -> dict[str, bytes]:
    return {name: (small / "fold-1" / name).read_bytes() for name in ("config.json", "model.safetensors")}


def test_a_pickle_is_never_read(hub: LocalHub, parts: dict[str, bytes], image: Path, tmp_path: Path, cli) -> None:
    hub.add("eve/net", {"config.json": parts["config.json"], "pytorch_model.bin": b"\x80\x04evil"})
    for arguments in (("pull", "eve/net", "-o", tmp_path / "net"), ("predict", "hf-hub:eve/net", image)):
        status, _, err = cli(*arguments)
        assert (status, err.count("Error: ")) == (1, 1)
        assert "it has no model.safetensors" in err
        assert "can run any code" in err
    hub.add("eve/net", {"model.safetensors": parts["model.safetensors"]})
    assert cli("pull", "eve/net", "-o", tmp_path / "net")[0] == 0
    assert {path.name for path in (tmp_path / "net").iterdir()} == {"config.json", "model.safetensors", "hub.json"}
    assert not [path for path in Path(constants.HF_HUB_CACHE).rglob("*.bin") if path.exists()]
    assert not [path for _, path in hub.requests if path.endswith("pytorch_model.bin")]


def changed(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda config: config.__setitem__(key, value)


def argument(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda config: config["model_args"].__setitem__(key, value)


def without_names(number: int) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        for names in (config, config["pretrained_cfg"]):
            names.pop("label_names", None)
        config["num_classes"] = number

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (changed("architecture", "evilnet_99"), "evilnet_99"),
        (without_names(10**9), "has the number 1e+09"),
        (argument("hidden_sizes", [512, 10**12]), "has the number 1e+12"),
        (argument("hidden_sizes", [512, 128, 65]), "has the shape"),
        (argument("encoders", ["test_resnet", "test_vit"]), "lacks"),
        (argument("encoders", ["no_such_encoder"]), "no_such_encoder"),
        (argument("no_such_argument", 1), "no_such_argument"),
        (argument("img_size", [[[[10**6]]]]), "has the number 1e+06"),
        (without_names(5), "has the shape"),
        (changed("num_classes", 5), "do not fit a model with 5 classes"),
        (lambda config: config["pretrained_cfg"].update(input_size=[3, 10**6, 10**6]), "setting of the preprocessing"),
        (lambda config: config["pretrained_cfg"].update(input_size=[3]), "setting of the preprocessing"),
        (lambda config: config.clear(), "cannot be loaded"),
        (changed("padding", "x" * 2**20), "bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_config_that_cannot_be_true_is_refused(
    hub: LocalHub, parts: dict[str, bytes], tmp_path: Path, cli, change, reason: str
) -> None:
    config = json.loads(parts["config.json"])
    config["model_args"].pop("num_classes", None)
    change(config)
    hub.add("eve/net", {**parts, "config.json": json.dumps(config).encode()})
    status, _, err = cli("pull", "eve/net", "-o", tmp_path / "net")
    assert (status, err.count("\n")) == (1, 1), err
    assert reason in err
    assert not (tmp_path / "net").exists()
    with pytest.raises(UserError):
        Predictor.from_pretrained("hf-hub:eve/net")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"[1, 2"),
        ("config.json", b"[" * 100_000),
        ("config.json", b'"text"'),
        ("model.safetensors", b"not weights"),
        ("model.safetensors", (2**60).to_bytes(8, "little") + b"{}"),
        ("model.safetensors", save({"weight": torch.zeros(1)})),
        ("run.json", b'{"commits": {"../../x": "0"}}'),
        ("run.json", b"[]"),
        ("run.json", b"nothing"),
    ],
)
def test_files_that_are_none_are_refused(hub: LocalHub, parts, tmp_path: Path, cli, name: str, content: bytes) -> None:
    hub.add("eve/net", {**parts, name: content})
    status, _, err = cli("pull", "eve/net", "-o", tmp_path / "net")
    assert (status, err.count("\n")) == (1, 1), err
    assert not (tmp_path / "net").exists()
    with pytest.raises(UserError):
        Predictor.from_pretrained("hf-hub:eve/net")


def test_missing_files_are_named(hub: LocalHub, parts: dict[str, bytes], tmp_path: Path, cli) -> None:
    for missing in parts:
        hub.add(f"eve/{missing}", {name: content for name, content in parts.items() if name != missing})
        assert f"it has no {missing}" in cli("pull", f"eve/{missing}", "-o", tmp_path / "net")[2]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    hub.add("eve/net", parts)
    assert "is not a run" in cli("pull", "eve/net", "-o", tmp_path / "mine", "--overwrite")[2]
    assert (tmp_path / "mine/thesis.txt").exists()


def test_a_cache_without_links_is_checked_by_asking(hub: LocalHub, parts, image: Path, monkeypatch) -> None:
    hub.add("eve/net", parts)
    (folder,) = hub_checkpoints("eve/net")
    for name in parts:  # as on file systems that know no links
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).write_bytes(content)
    assert hub_checkpoints("eve/net") == [folder]
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    assert hub_checkpoints("eve/net") == [folder]
    assert (folder / "model.safetensors").read_bytes() == parts["model.safetensors"]


def test_a_pull_replaces_only_what_this_library_made_and_only_by_a_whole_run(hub, parts, tmp_path, cli) -> None:
    hub.add("eve/net", parts)
    model, run = tmp_path / "model", tmp_path / "run"
    for folder in (model, run):
        folder.mkdir()
        for name, content in parts.items():  # downloaded by hand: a model, but not made here
            (folder / name).write_bytes(content)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    status, _, err = cli("pull", "eve/net", "-o", model, "--overwrite")
    assert (status, err) == (1, f"Error: {model} exists and is not a run that cvrnet made; choose another folder\n")
    (run / "hub.json").write_text(json.dumps({"repo": "eve/net", "commit": "0" * 40}))
    before[run / "hub.json"] = (run / "hub.json").read_bytes()
    assert cli("pull", "eve/nothing", "-o", run, "--overwrite")[0] == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert cli("pull", "eve/net", "-o", run, "--overwrite")[0] == 0
    assert json.loads((run / "hub.json").read_text())["commit"] != "0" * 40
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "run"]

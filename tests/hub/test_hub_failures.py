"""What goes wrong with a Hub: one line says what failed, branches stay whole, and the same command completes.

The real client talks to a local Hub with faults, through LFS and through Xet.
"""

from __future__ import annotations

import json
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save

import cvrnet
from cvrnet import Predictor
from cvrnet.errors import UserError
from cvrnet.hub import hub_checkpoints
from cvrnet.runs.checkpoint import load_checkpoint
from cvrnet.runs.hub_download import file_hash
from tests.support.hub import Fault, LocalHub
from tests.support.hub_runs import CLASSES, HIDDEN, make_folds, make_model
from tests.support.hub_storage import TOKENS

REPO = "ada/net"


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folds(tmp_path_factory.mktemp("one") / "run")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folds(tmp_path_factory.mktemp("two") / "run", seed=7)


def fails(cli: Any, *arguments: object) -> str:
    """The one line that a command ends with."""
    status, out, err = cli(*arguments)
    assert (status, out) == (1, "")
    lines = err.splitlines()
    assert [line for line in lines if line.startswith("Error: ")] == lines, err
    assert len(lines) == 1, err
    return lines[0]


def holds(hub: LocalHub, run: Path) -> bool:
    """Whether the repository holds the run, whole: each fold in its branch, and recorded in main."""
    if "run.json" not in hub.files(REPO):
        return False
    commits = json.loads(hub.files(REPO)["run.json"])["commits"]
    assert commits, "a run.json without folds"
    return all(sha256(hub, commits.get(f"fold-{k}")) == weights(run, k) for k in (1, 2))


def weights(run: Path, fold: int) -> str:
    return file_hash(run / f"fold-{fold}/model.safetensors")


def sha256(hub: LocalHub, revision: str | None) -> str:
    commit = hub.repository(REPO).resolve(revision or "none")
    return commit.files["model.safetensors"].sha256 if commit else ""


def assert_whole(hub: LocalHub, *runs: Path) -> None:
    """Each branch is empty, or holds one fold of one of the runs: its weights and its configuration."""
    repository = hub.storage.repositories.get(REPO)
    for branch in repository.branches if repository else ():
        names = hub.files(REPO, branch).keys() - {".gitattributes"}
        assert not names or {"config.json", "model.safetensors"} <= names, branch
        assert not names or sha256(hub, branch) in {weights(run, k) for run in runs for k in (1, 2)}
    if repository and "run.json" in hub.files(REPO):
        assert any(holds(hub, run) for run in runs)


# Pushing

PUSH_FAULTS: dict[str, tuple[str, Fault]] = {
    "create 500": ("POST /api/repos/create", 500),
    "create reset": ("POST /api/repos/create", "reset"),
    "describe 503": ("GET /api/models/ada/net", 503),
    "branch 502": ("POST .*/branch/fold-1", 502),
    "commits 504": ("GET .*/commits/", 504),
    "tree reset": ("GET .*/tree/", "reset"),
    "validate-yaml 503": ("POST /api/validate-yaml", 503),
    "preupload 500": ("POST .*/preupload/fold-2", 500),
    "commit 500": ("POST .*/commit/fold-2", 500),
    "commit 429": ("POST .*/commit/main", 429),
    "commit reset": ("POST .*/commit/main", "reset"),
    "commit's answer lost": ("POST .*/commit/fold-1", "lost"),
    "main's answer lost": ("POST .*/commit/main", "lost"),
    "branch's answer lost": ("POST .*/branch/fold-1", "lost"),
    "refs 503": ("GET .*/refs", 503),
    "tag 503": ("POST .*/tag/", 503),
}


@pytest.mark.parametrize("fault", PUSH_FAULTS)
def test_a_push_survives_what_passes(either_hub: LocalHub, folds: Path, fault: str) -> None:
    either_hub.fail(*PUSH_FAULTS[fault])
    pushed = cvrnet.push_folds(folds, REPO, tag="v1")
    assert holds(either_hub, folds)
    repository = either_hub.repository(REPO)
    assert pushed.commits == repository.branches
    assert [len(repository.history(repository.commits[c])) for c in repository.branches.values()] == [2, 2, 2], "once"
    assert repository.tags == {"v1": pushed.commits["main"]}


@pytest.mark.parametrize(
    ("asked", "fault", "safe"),
    [
        ("POST /api/repos/create", 503, "no branch was changed"),
        ("GET .*/commits/", "reset", "no branch was changed"),
        ("POST .*/branch/fold-2", 503, "fold-1 arrived, main is unchanged"),
        ("POST .*/preupload/fold-1", "reset", "no branch was changed"),
        ("POST .*/commit/fold-2", 503, "fold-1 arrived, main is unchanged"),
        ("POST .*/commit/main", "reset", "fold-1, fold-2 arrived, main is unchanged"),
        ("POST /api/validate-yaml", 503, "fold-1, fold-2 arrived, main is unchanged"),
    ],
)
def test_a_push_that_breaks_off_goes_on(hub: LocalHub, folds: Path, cli, asked: str, fault: Fault, safe: str) -> None:
    hub.fail(asked, fault, times=10**6)
    line = fails(cli, "push", folds, REPO)
    assert f"cannot push {folds} to {REPO}: " in line
    assert ("HTTP 503" if fault == 503 else f"connection to {constants.ENDPOINT} failed") in line
    assert line.endswith(f"{safe}; repeat the command later")
    assert_whole(hub, folds)
    hub.heal()
    assert cli("push", folds, REPO)[0] == 0
    assert holds(hub, folds)


@pytest.mark.parametrize("fault", [500, "reset"])
def test_an_upload_that_breaks_off_goes_on(hub: LocalHub, folds: Path, cli, fault: Fault) -> None:
    hub.fail("PUT .*/lfs/", fault, times=10**6)
    line = fails(cli, "push", folds, REPO)
    assert "no branch was changed" in line
    assert ("HTTP 500" if fault == 500 else "connection to") in line
    assert_whole(hub, folds)
    hub.heal()
    assert cli("push", folds, REPO)[0] == 0


@pytest.mark.parametrize("fault", [500, 401, "reset"])
def test_an_upload_without_a_xet_token_goes_on(xet_hub: LocalHub, folds: Path, cli, fault: Fault) -> None:
    xet_hub.fail("GET .*/xet-write-token/", fault, times=10**6)
    assert "no branch was changed" in fails(cli, "push", folds, REPO)
    assert_whole(xet_hub, folds)
    xet_hub.heal()
    assert cli("push", folds, REPO)[0] == 0
    assert holds(xet_hub, folds)


def test_the_hub_goes_away_before_it_answers(either_hub: LocalHub, folds: Path, cli, monkeypatch) -> None:
    either_hub.fail("POST .*/commit/fold-2", "lost")
    either_hub.fail("GET .*/revision/fold-2", 503, times=10**6)  # the question whether it arrived, too
    either_hub._planned.insert(0, ("GET .*/revision/fold-2", lambda: None, 1))
    line = fails(cli, "push", folds, REPO)
    assert "fold-1 arrived; it is not known whether fold-2 arrived, but no branch is incomplete" in line
    either_hub.heal()
    assert cli("push", folds, REPO)[0] == 0
    assert holds(either_hub, folds)
    assert len(either_hub.repository(REPO).commits) == 4, "what had arrived was not committed again"


def test_a_card_that_the_hub_does_not_take(hub: LocalHub, folds: Path, cli) -> None:
    assert 'the Hub refused the request ("license" must be one of' in fails(
        cli, "push", folds, REPO, "--license", "no-such-license"
    )
    assert_whole(hub, folds)
    assert cli("push", folds, REPO, "--license", "mit")[0] == 0


# Who may


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("hf_read", "token does not allow it (You don't have the rights to create a model)"),
        ("hf_other", "token does not allow it"),
        ("hf_revoked", "the Hub does not accept the token"),
        ("", "the Hub does not accept the token"),
    ],
)
def test_who_may_not_push(either_hub: LocalHub, folds: Path, cli, monkeypatch, token: str, reason: str) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert reason in fails(cli, "push", folds, REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    cvrnet.push_folds(folds, REPO)
    if token == "hf_read":
        monkeypatch.setenv("HF_TOKEN", token)
        (other := folds.parent / "changed").mkdir(exist_ok=True)
        make_folds(other, seed=20)
        assert "token does not allow it" in fails(cli, "push", other, REPO, "--overwrite")
        assert holds(either_hub, folds)


@pytest.mark.parametrize(
    ("token", "reason"), [("", "private"), ("hf_other", "private"), ("hf_bad", "accept the token")]
)
def test_who_may_not_pull(
    either_hub: LocalHub, folds: Path, cli, monkeypatch, tmp_path, token: str, reason: str
) -> None:
    cvrnet.push_folds(folds, REPO)
    monkeypatch.setenv("HF_TOKEN", token)
    assert reason in fails(cli, "pull", REPO, "-o", tmp_path / "run")
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    assert cli("pull", REPO, "-o", tmp_path / "run")[0] == 0


def test_a_token_that_is_revoked_meanwhile(either_hub: LocalHub, folds: Path, cli, monkeypatch) -> None:
    tokens = dict(TOKENS)
    monkeypatch.setattr("tests.support.hub.TOKENS", tokens)
    either_hub.fail("POST .*/commit/fold-2", lambda: tokens.pop("hf_write"))
    line = fails(cli, "push", folds, REPO)
    assert "the Hub does not accept the token" in line
    assert "fold-1 arrived" in line
    assert_whole(either_hub, folds)
    tokens["hf_write"] = TOKENS["hf_write"]
    assert cli("push", folds, REPO)[0] == 0
    assert holds(either_hub, folds)


# Two at once


@pytest.mark.parametrize("moment", ["POST .*/commit/fold-1", "POST .*/commit/fold-2", "POST .*/commit/main"])
def test_two_runs_pushed_at_once(either_hub: LocalHub, folds: Path, others: Path, cli, moment: str) -> None:
    def second() -> None:
        thread = threading.Thread(target=lambda: cvrnet.push_folds(others, REPO, overwrite=True))
        thread.start()
        thread.join()

    either_hub.fail(moment, second)
    line = fails(cli, "push", folds, REPO)
    assert "somebody else pushed to it at the same time" in line
    assert_whole(either_hub, folds, others)
    assert holds(either_hub, others), "who ended first is there, whole"
    assert "another run" in fails(cli, "push", folds, REPO)
    assert cli("push", folds, REPO, "--overwrite")[0] == 0
    assert holds(either_hub, folds)


def test_one_run_pushed_twice_at_once(either_hub: LocalHub, folds: Path) -> None:
    failed: list[str] = []

    def push() -> None:
        try:
            cvrnet.push_folds(folds, REPO)
        except UserError as error:
            failed.append(str(error))

    threads = [threading.Thread(target=push) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failed) <= 1
    assert all("at the same time" in line for line in failed)
    assert holds(either_hub, folds)


# Pulling

DOWNLOADS = "GET .*/(lfs/|resolve/.*/config.json)"


@pytest.mark.parametrize("fault", ["cut", "reset", 500, 503])
@pytest.mark.parametrize("times", [1, 10**6], ids=["once", "always"])
def test_a_download_that_breaks_off(hub: LocalHub, folds: Path, cli, tmp_path: Path, fault: Fault, times: int) -> None:
    cvrnet.push_folds(folds, REPO)
    hub.fail(DOWNLOADS, fault, times)
    if times > 1:
        line = fails(cli, "pull", REPO, "-o", tmp_path / "run")
        assert "cannot load ada/net" in line
        assert "nothing was changed; repeat the command" in line
        assert not list(tmp_path.iterdir())
        hub.heal()
    assert cli("pull", REPO, "-o", tmp_path / "run")[0] == 0
    for fold in (1, 2):
        assert weights(tmp_path / "run", fold) == weights(folds, fold)


@pytest.mark.parametrize("fault", [500, 401, "reset"])
def test_a_download_without_a_xet_token(xet_hub: LocalHub, folds: Path, cli, tmp_path: Path, fault: Fault) -> None:
    cvrnet.push_folds(folds, REPO)
    xet_hub.fail("GET .*/xet-read-token/", fault, times=10**6)
    fails(cli, "pull", REPO, "-o", tmp_path / "run")
    assert not list(tmp_path.iterdir())
    xet_hub.heal()
    assert cli("pull", REPO, "-o", tmp_path / "run")[0] == 0


def test_a_download_whose_storage_lost_the_data(xet_hub: LocalHub, folds: Path, cli, tmp_path: Path) -> None:
    cvrnet.push_folds(folds, REPO)
    (xorbs,) = xet_hub.xet.glob("xet/xorbs/xorbs")  # type: ignore[union-attr]
    xorbs.rename(aside := xorbs.with_name("aside"))
    fails(cli, "pull", REPO, "-o", tmp_path / "run")
    aside.rename(xorbs)
    assert cli("pull", REPO, "-o", tmp_path / "run")[0] == 0


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_damaged_cache(either_hub: LocalHub, folds: Path, cli, tmp_path, monkeypatch, caplog, file: str) -> None:
    """The same size, another bit: the client never notices."""
    cvrnet.push_folds(folds, REPO)
    folder = hub_checkpoints(REPO)[0]
    content = (folder / file).read_bytes()
    blob = (folder / file).resolve()
    blob.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    Image.new("L", (64, 64)).save(tmp_path / "chest.png")
    line = fails(cli, "predict", f"hf-hub:{REPO}", tmp_path)
    assert f"{file} is damaged" in line
    assert "repeat the command" in line
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert hub_checkpoints(REPO)[0] == folder
    assert f"{file} in the cache is damaged; it is downloaded again" in caplog.text
    assert (folder / file).read_bytes() == content


def test_a_download_with_a_wrong_bit(hub: LocalHub, folds: Path, cli, tmp_path: Path) -> None:
    cvrnet.push_folds(folds, REPO)
    hub.fail("GET .*/lfs/", "flip", times=10**6)
    assert "model.safetensors arrived damaged" in fails(cli, "pull", REPO, "-o", tmp_path / "run")
    assert not list(tmp_path.iterdir())
    hub.heal()
    assert cli("pull", REPO, "-o", tmp_path / "run")[0] == 0
    assert weights(tmp_path / "run", 1) == weights(folds, 1)


@pytest.mark.parametrize(
    "moment", ["HEAD .*config.json", "GET .*config.json", "HEAD .*safetensors", "GET .*(lfs|/tree/)"]
)
def test_a_push_while_somebody_loads(hub: LocalHub, moment: str) -> None:
    """Old labels with new weights would be worse than any error."""
    models = {names: make_model(seed) for seed, names in enumerate((("a", "b", "c"), ("c", "b", "a")))}

    def files(names: tuple[str, ...]) -> dict[str, bytes]:
        config = {"architecture": "cvrnet", "num_classes": 3, "label_names": names}
        config |= {
            "model_args": {"encoders": ["test_resnet"], "hidden_sizes": HIDDEN, "img_size": 64},
            "pretrained_cfg": {"input_size": [3, 64, 64]},
        }
        state = {name: tensor.contiguous() for name, tensor in models[names].state_dict().items()}
        return {"config.json": json.dumps(config).encode(), "model.safetensors": save(state)}

    old, new = models
    hub.add("eve/net", files(old))
    hub.fail(moment, lambda: hub.add("eve/net", files(new)))
    (folder,) = hub_checkpoints("eve/net")
    labels = tuple(json.loads((folder / "config.json").read_text())["label_names"])
    state = models[labels].state_dict()
    assert all((state[name] == tensor).all() for name, tensor in load_file(folder / "model.safetensors").items())
    (folder,) = hub_checkpoints("eve/net")
    assert tuple(load_checkpoint(folder).pretrained_cfg["label_names"]) == new  # type: ignore[index]


def test_a_push_between_two_folds(either_hub: LocalHub, folds: Path, others: Path) -> None:
    cvrnet.push_folds(folds, REPO)

    def second() -> None:
        thread = threading.Thread(target=lambda: cvrnet.push_folds(others, REPO, overwrite=True))
        thread.start()
        thread.join()

    first_fold = either_hub.repository(REPO).branches["fold-1"]
    either_hub.fail(f"GET .*/tree/{first_fold}", second)
    loaded = [file_hash(folder / "model.safetensors") for folder in hub_checkpoints(REPO)]
    assert loaded == [weights(folds, 1), weights(folds, 2)], "both of the old run"
    assert holds(either_hub, others)


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files cannot grow beyond a size; the system refuses the write, as it does on a full disk."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def test_a_full_disk(either_hub: LocalHub, folds: Path, cli, tmp_path: Path) -> None:
    cvrnet.push_folds(folds, REPO)
    with full_disk(50_000):
        line = fails(cli, "pull", REPO, "-o", tmp_path / "run")
    assert "no space left on the disk" in line
    assert not list(tmp_path.iterdir())
    hub_checkpoints(REPO)
    with full_disk(50_000):  # now all is in the cache, and only the copy fails
        line = fails(cli, "pull", REPO, "-o", tmp_path / "run")
    assert f"cannot write {tmp_path / 'run'}: no space left on the disk" in line
    assert not list(tmp_path.iterdir())
    assert cli("pull", REPO, "-o", tmp_path / "run")[0] == 0
    assert Predictor.from_pretrained(tmp_path / "run").classes == CLASSES

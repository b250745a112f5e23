"""Pushing: what the repository holds afterwards, what it never holds, and the card."""

from __future__ import annotations

import csv
import getpass
import io
import json
import re
import shutil
import socket
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import yaml
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import cvrnet
from cvrnet.errors import UserError
from cvrnet.hub.redact import public_run
from cvrnet.hub.staging import LEADERBOARD, stage_run
from cvrnet.runs.checkpoint import save_checkpoint
from tests.support.hub import LocalHub
from tests.support.hub_runs import CLASSES, make_folds, make_model

LOGIN, HOST, HOME = "zebulon", "xray-cluster-7", "/home/zebulon"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with telling names."""
    monkeypatch.setattr(getpass, "getuser", lambda: LOGIN)
    monkeypatch.setattr(socket, "gethostname", lambda: f"{HOST}.hospital.example")
    monkeypatch.setenv("HOME", HOME)


@pytest.fixture
def telling(crossval: Path, tmp_path: Path, elsewhere: None) -> Path:
    """A run whose files hold every private thing that they can."""
    folder = tmp_path / LOGIN / "run"
    shutil.copytree(crossval, folder)
    description = json.loads((folder / "run.json").read_text())
    description |= {"data": f"{HOME}/scans/{LOGIN}-manifest.csv", "host": HOST, "command": f"cvrnet train {HOME}/scans"}
    description["config"] |= {"model": f"local-dir:{HOME}/old-run", "device": HOST}
    (folder / "run.json").write_text(json.dumps(description))
    metrics = json.loads((folder / "fold-1/metrics.json").read_text())
    metrics["test"]["worst"] = [f"{HOME}/scans/Meyer_Anna_1952.png"]
    (folder / "fold-1/metrics.json").write_text(json.dumps(metrics | {"folder": f"{HOME}/run"}))
    notes = PngInfo()
    notes.add_text("Author", LOGIN)
    figure = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 4), dtype=np.uint8))
    figure.save(folder / "figures/confusion_matrix.png", pnginfo=notes)
    for secret in ("report.html", "figures/worst_images.png", "training-state.pt", "notes.txt"):
        (folder / secret).write_bytes(LOGIN.encode())
    for table in (folder / "split.csv", folder / "fold-2/predictions.csv"):
        rows = list(csv.DictReader(table.open()))
        for i, row in enumerate(rows):
            row |= {"patient_id": f"Meyer-{i // 2}", "path": f"{LOGIN}/Meyer_{i}.png", "comment": LOGIN}
        with table.open("w") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return folder


def everything(hub: LocalHub, repo: str) -> dict[str, bytes]:
    """Every file of every commit."""
    return {
        f"{commit}/{name}": content
        for commit in hub.repository(repo).commits
        for name, content in hub.files(repo, commit).items()
    }


@pytest.mark.parametrize("with_predictions", [False, True])
def test_no_byte_tells_who_where_or_whose(hub: LocalHub, telling: Path, with_predictions: bool) -> None:
    cvrnet.push_folds(telling, "ada/net", with_predictions=with_predictions)
    pushed = everything(hub, "ada/net")
    assert len(pushed) > 20
    for name, content in pushed.items():
        for private in (LOGIN, HOST, HOME, str(telling), "Meyer", "/tmp", str(Path.cwd())):
            assert private.encode() not in content, (name, private)
            assert private not in name
    names = {name.partition("/")[2] for name in pushed}
    assert {Path(name).suffix for name in names} - {".md", ".json", ".safetensors", ".png", ".csv", ""} == set()
    assert not names & {"report.html", "figures/worst_images.png", "training-state.pt", "notes.txt", "patient-hash.key"}
    assert ("split.csv" in names, "predictions.csv" in names) == (with_predictions, with_predictions)


def test_hashed_ids_keep_who_belongs_together(hub: LocalHub, telling: Path) -> None:
    first = cvrnet.push_folds(telling, "ada/net", with_predictions=True)
    before = list(csv.DictReader((telling / "split.csv").open()))
    after = list(csv.DictReader(io.StringIO(hub.files("ada/net")["split.csv"].decode())))
    assert len(after) == len(before) > 20
    pairs = {(b["patient_id"], a["patient_id"]) for b, a in zip(before, after, strict=True)}
    assert len(pairs) == len({real for real, _ in pairs}) == len({hashed for _, hashed in pairs}) < len(before)
    assert [row["label"] for row in before] == [row["label"] for row in after]
    predictions = list(csv.DictReader(io.StringIO(hub.files("ada/net", "fold-2")["predictions.csv"].decode())))
    assert {row["patient_id"] for row in predictions} <= {hashed for _, hashed in pairs}
    assert cvrnet.push_folds(telling, "ada/net", with_predictions=True).commits == first.commits, "the key is kept"
    (telling / "patient-hash.key").unlink()
    assert cvrnet.push_folds(telling, "ada/net", with_predictions=True).commits["main"] != first.commits["main"]


def test_a_figure_keeps_its_pixels_and_nothing_else(hub: LocalHub, telling: Path) -> None:
    cvrnet.push_folds(telling, "ada/net")
    pushed = hub.files("ada/net")["figures/confusion_matrix.png"]
    with Image.open(telling / "figures/confusion_matrix.png") as old, Image.open(io.BytesIO(pushed)) as new:
        assert old.info["Author"] == LOGIN
        assert np.array_equal(np.asarray(old), np.asarray(new))
        assert new.info == {}
    data = (telling / "figures/roc.png").read_bytes()
    (telling / "figures/roc.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"roc\.png is not a complete PNG"):
        cvrnet.push_folds(telling, "ada/net")


def test_a_path_that_nothing_else_removed_stops_the_push(hub: LocalHub, tmp_path: Path) -> None:
    folder = make_folds(tmp_path / "run")
    config = json.loads((folder / "fold-2/config.json").read_text())
    config["pretrained_cfg"]["url"] = "/home/ada/weights.pth"
    (folder / "fold-2/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config.json contains a path .*/home/ada/weights.pth"):
        cvrnet.push_folds(folder, "ada/net")
    assert hub.requests == []


def test_only_a_data_set_of_the_hub_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for data in ("D:\\scans\\covid.csv", "/scans/ward-7", "ward-7", "", "hfds:/scans/ward-7", "hfds:../ward-7/scans"):
        assert public_run({"data": data}, "ada/net") == {}
    assert public_run({"data": "hfds:ada/chest"}, "ada/net") == {"data": "hfds:ada/chest"}
    (tmp_path / "ada/chest").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_run({"data": "hfds:ada/chest"}, "ada/net") == {}, "a folder here"
    assert public_run({"config": {"model": "hf-hub:ada/net"}}, "ada/net") == {"config": {"model": "hf-hub:ada/net"}}


def test_the_card_tells_what_the_files_hold(hub: LocalHub, crossval: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(crossval, folder)
    severe = {"code": "class-source:NCP", "severity": "severe", "files": ["Meyer.png"]}
    severe["sentence"] = "All 14 images of NCP come from one source."
    findings = [severe, {"code": "x", "severity": "note", "sentence": "Nothing to see.", "files": []}]
    (folder / "audit.json").write_text(json.dumps({"findings": findings}))
    cvrnet.push_folds(folder, "ada/net", license="mit")
    card = ModelCard(hub.files("ada/net")["README.md"].decode())
    summary = json.loads((folder / "summary.json").read_text())
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == ("timm", "image-classification", "mit")
    scores = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert scores["accuracy"] == summary["mean_std"]["accuracy"]["mean"]
    assert scores["roc_auc"] == summary["mean_std"]["macro"]["roc_auc"]["mean"]
    assert len(scores) == 7
    for number, fold in enumerate(summary["folds"], start=1):
        assert f"| {number} | {fold['n']} | {fold['accuracy']:.3f} |" in card.text
    mean = summary["mean_std"]["accuracy"]
    assert f"| mean ± sd |  | {mean['mean']:.3f} ± {mean['std']:.3f} |" in card.text
    assert "- All 14 images of NCP come from one source." in card.text
    assert "Nothing to see" not in card.text
    assert "Meyer" not in card.text
    (figure,) = re.findall(r"!\[Confusion matrix\]\((.*?)\)", card.text)
    assert figure in hub.files("ada/net")
    for part in (
        "not a medical device",
        "Intended use and limits",
        "import cvrnet",
        "arXiv:2007.11993",
        "CVP, NCP, NOR",
    ):
        assert part in card.text


def test_base_models_are_the_encoders_pretrained_weights(hub: LocalHub, tmp_path: Path) -> None:
    folder = make_folds(tmp_path / "run", folds=1)
    description = json.loads((folder / "run.json").read_text())
    description["config"] |= {"pretrained": True, "model": "cvrnet"}
    (folder / "run.json").write_text(json.dumps(description))
    cvrnet.push_folds(folder, "ada/net")
    assert ModelCard(hub.files("ada/net")["README.md"].decode()).data.base_model == ["timm/test_resnet.r160_in1k"]


def test_branches_hold_the_folds_and_main_the_best_of_validation(hub: LocalHub, tmp_path: Path) -> None:
    folder = make_folds(tmp_path / "run", folds=3)
    for fold, accuracy in enumerate((0.5, 0.9, 0.7), start=1):
        path = folder / f"fold-{fold}/metrics.json"
        metrics = json.loads(path.read_text())
        metrics["val"]["accuracy"] = accuracy
        path.write_text(json.dumps(metrics))
        (path.parent / "predictions.csv").write_text("path,label\na.png,CVP\n")
    pushed = cvrnet.push_folds(folder, "ada/net", tag="v1.0")
    assert hub.repository("ada/net").branches == pushed.commits
    assert hub.repository("ada/net").tags == {"v1.0": pushed.commits["main"]}
    assert hub.repository("ada/net").private
    for fold in (1, 2, 3):
        files = hub.files("ada/net", f"fold-{fold}")
        assert files["model.safetensors"] == (folder / f"fold-{fold}/model.safetensors").read_bytes()
        assert not files.keys() & {"README.md", "run.json", "predictions.csv"}
    main = hub.files("ada/net")
    assert main["model.safetensors"] == (folder / "fold-2/model.safetensors").read_bytes()
    commits = {name: commit for name, commit in pushed.commits.items() if name != "main"}
    assert json.loads(main["run.json"])["commits"] == commits


def test_a_repeated_push_commits_nothing_and_stale_files_go(hub: LocalHub, tmp_path: Path) -> None:
    folder = make_folds(tmp_path / "run")
    (folder / "fold-1/history.csv").write_text("epoch,lr\n1,0.001\n")
    first = cvrnet.push_folds(folder, "ada/net")
    assert "history.csv" in hub.files("ada/net", "fold-1")
    assert cvrnet.push_folds(folder, "ada/net").commits == first.commits
    (folder / "fold-1/history.csv").unlink()
    second = cvrnet.push_folds(folder, "ada/net")
    assert "history.csv" not in hub.files("ada/net", "fold-1")
    assert second.commits["fold-2"] == first.commits["fold-2"]


def test_folds_join_those_that_are_there(hub: LocalHub, tmp_path: Path, cli) -> None:
    folder = make_folds(tmp_path / "run", folds=3)
    assert cli("push", folder, "ada/net", "--fold", 1, "--fold", 3)[0] == 0
    assert hub.repository("ada/net").branches.keys() == {"main", "fold-1", "fold-3"}
    assert cli("push", folder, "ada/net", "--fold", 2)[0] == 0
    commits = json.loads(hub.files("ada/net")["run.json"])["commits"]
    assert list(commits) == ["fold-1", "fold-2", "fold-3"]


def test_another_run_is_not_replaced_unasked(hub: LocalHub, tmp_path: Path, cli) -> None:
    one, two = make_folds(tmp_path / "one"), make_folds(tmp_path / "two", seed=7)
    cvrnet.push_folds(one, "ada/net")
    before = dict(hub.repository("ada/net").branches)
    status, _, err = cli("push", two, "ada/net")
    assert status == 1
    assert err == "Error: ada/net holds another run; --overwrite replaces it\n"
    assert hub.repository("ada/net").branches == before
    assert cli("push", two, "ada/net", "--overwrite")[0] == 0
    assert hub.files("ada/net", "fold-1")["model.safetensors"] == (two / "fold-1/model.safetensors").read_bytes()


def test_private_unless_public(hub: LocalHub, tmp_path: Path, cli) -> None:
    folder = make_folds(tmp_path / "run", folds=1)
    HfApi().create_repo("ada/open", private=False)
    status, _, err = cli("push", folder, "ada/open")
    assert (status, "ada/open is public; add --public" in err) == (1, True)
    assert list(hub.files("ada/open")) == [".gitattributes"]
    assert "public" in cli("push", folder, "ada/open", "--public")[2]
    assert cli("push", folder, "ada/new", "--public")[0] == 0
    assert not hub.repository("ada/new").private


def test_a_tag_stays_where_it_is(hub: LocalHub, tmp_path: Path, cli) -> None:
    folder = make_folds(tmp_path / "run", folds=1)
    commit = cvrnet.push_folds(folder, "ada/net", tag="v1").commits["main"]
    assert cvrnet.push_folds(folder, "ada/net", tag="v1").commits["main"] == commit
    assert cli("push", folder, "ada/net", "--tag", "v1", "--license", "mit")[0] == 1
    assert hub.repository("ada/net").tags == {"v1": commit}
    for name in ("main", "fold-2", "a b"):
        status, _, err = cli("push", folder, "ada/net", "--tag", name)
        assert (status, err.startswith("Error: tag")) == (1, True)


@pytest.mark.parametrize("name", ["independent", "test"])
def test_the_card_of_a_training_shows_the_images_held_back(run: Path, tmp_path: Path, name: str) -> None:
    """Version 0.1 called their set ``test``."""
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics[name] = metrics.pop("independent")
    (folder / "metrics.json").write_text(json.dumps(metrics))
    card = ModelCard(stage_run(folder, "ada/net").card.decode())
    assert {r.dataset_split for r in card.data.eval_results} == {"test"}
    assert card.data.eval_results[0].metric_value == metrics[name]["accuracy"]
    assert f"| {metrics[name]['accuracy']:.3f} |" in card.text


@pytest.mark.parametrize("kind", ["train", "keras"])
def test_a_single_model_is_pushed_to_main_alone(hub: LocalHub, run: Path, tmp_path: Path, kind: str) -> None:
    folder = run
    if kind == "keras":
        folder = tmp_path / "run"
        save_checkpoint(make_model(3), folder, CLASSES)
        source = {"file": "Model_task_1_Fold_2.hdf5", "sha256": "0" * 64}
        description = {
            "kind": "convert-keras",
            "source": source,
            "classes": CLASSES,
            "config": {"model": "cvrnet_keras"},
        }
        (folder / "run.json").write_text(json.dumps(description))
    pushed = cvrnet.push_folds(folder, "ada/net")
    assert pushed.commits.keys() == hub.repository("ada/net").branches.keys() == {"main"}
    card = ModelCard(hub.files("ada/net")["README.md"].decode())
    if kind == "keras":
        assert card.data.eval_results is None
        assert "No evaluation was recorded" in card.text
    else:
        metrics = json.loads((run / "metrics.json").read_text())
        assert card.data.eval_results[0].metric_value == metrics["independent"]["accuracy"]
        assert "site-b (a source that was kept for testing)" in card.text


def test_a_dry_run_shows_all_and_sends_nothing(hub: LocalHub, crossval: Path, cli) -> None:
    status, out, err = cli("push", crossval, "ada/net", "--dry-run")
    assert status == 0
    assert hub.requests == []
    assert ModelCard(out).data.library_name == "timm"
    cvrnet.push_folds(crossval, "ada/net")
    assert out.encode() == hub.files("ada/net")["README.md"]
    shown = {tuple(line.split()[:2]) for line in err.splitlines() if line.startswith(("main", "fold-"))}
    pushed = {(b, name) for b in hub.repository("ada/net").branches for name in hub.files("ada/net", b)}
    assert shown == {(branch, name) for branch, name in pushed if name != ".gitattributes"}


def test_what_cannot_be_pushed(hub: LocalHub, tmp_path: Path, cli) -> None:
    folder = make_folds(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "untrained").mkdir()
    (tmp_path / "untrained/run.json").write_text('{"classes": ["a", "b"]}')
    for arguments, reason in {
        (tmp_path / "empty", "ada/net"): "it has no run.json",
        (tmp_path / "untrained", "ada/net"): "it has neither config.json nor fold-*/config.json",
        (folder, "net"): "'net' does not name a repository; expected user/repo",
        (folder, "ada/net@v1"): "expected user/repo",
        (folder, "ada/net", "--fold", 9): "has no fold 9; expected some of 1, 2",
    }.items():
        status, _, err = cli("push", *arguments)
        assert (status, err.count("\n")) == (1, 1)
        assert reason in err
    (folder / "fold-2/model.safetensors").write_bytes(b"damaged")
    assert "fold-2 holds a checkpoint that cannot be loaded" in cli("push", folder, "ada/net")[2]
    assert hub.requests == []


def test_a_run_on_a_data_set_of_the_hub_has_the_newer_metadata_of_scores(crossval: Path, tmp_path: Path) -> None:
    """The Hub's own client reads it; a run on other data has none, because the form needs a data set of the Hub."""
    run = tmp_path / "run"
    shutil.copytree(crossval, run)
    assert LEADERBOARD not in stage_run(run, "ada/net").main
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**about, "data": "hfds:ada/chest"}))
    staged = stage_run(run, "ada/net")
    entries = huggingface_hub.parse_eval_result_entries(yaml.safe_load(bytes(staged.main[LEADERBOARD])))
    shown = ModelCard(staged.card.decode()).data.eval_results
    assert {e.dataset_id for e in entries} == {"ada/chest"}
    first = [result for result in shown if result.dataset_name == "ada/chest"]
    assert [(e.task_id, e.value) for e in entries] == [(r.metric_type, r.metric_value) for r in first]
    assert all(LEADERBOARD not in files for files in staged.folds.values())

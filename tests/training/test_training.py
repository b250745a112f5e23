"""Fine-tuning: the protocol, the run folder, interruptions, several processes."""

import csv
import itertools
import json
import math
import multiprocessing
import os
import signal
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import accelerate
import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from cvrnet.data import DataError, ImageCache, Preprocessing, read_records, write_manifest
from cvrnet.data.data_set import DataSet
from cvrnet.data.splits import holdout_sets
from cvrnet.errors import UserError
from cvrnet.runs.checkpoint import checkpoint_classes, load_checkpoint
from cvrnet.runs.layout import STATE
from cvrnet.training import Progress, TrainConfig, fit, recipe, resolve_interpolation
from cvrnet.training.batches import Schedule, epoch_batches
from cvrnet.training.model import create_for_training, smallest_part
from cvrnet.training.objective import class_weights
from cvrnet.training.optimizers import create_optimizer
from cvrnet.training.processes import Processes
from cvrnet.workflows import Callbacks, cross_validate, train
from tests.conftest import PLAIN, TINY
from tests.support import forks
from tests.support.pairs import run_pair
from tests.support.whole import broken

CONFIG = TrainConfig(**TINY)
LIGHT = replace(CONFIG, encoders=("test_resnet",))
MODERN = recipe("modern", **{**TINY, "encoders": LIGHT.encoders})
RUN_FILES = {
    "run.json",
    "split.csv",
    "config.json",
    "model.safetensors",
    "history.csv",
    "metrics.json",
    "predictions.csv",
    "last-epoch.pt",
}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def same_history(a: Path, b: Path) -> bool:
    drop = [[{k: v for k, v in row.items() if k != "seconds"} for row in rows(p / "history.csv")] for p in (a, b)]
    return drop[0] == drop[1]


@given(
    st.integers(1, 300),
    st.integers(1, 40),
    st.integers(1, 8),
    st.integers(0, 99),
    st.integers(1, 99),
    st.integers(1, 2),
)
def test_every_image_once_an_epoch_and_no_process_idle(n, batch_size, parts, seed, epoch, least):
    if min(n, batch_size) < parts * least:
        with pytest.raises(UserError, match=rf"divided into {parts} parts .*expected at least {parts * least}"):
            epoch_batches(n, batch_size, parts, seed, epoch, least)
        return
    batches = epoch_batches(n, batch_size, parts, seed, epoch, least)
    assert sorted(i for batch in batches for part in batch for i in part) == list(range(n))
    assert all(len(batch) == parts and all(len(part) >= least for part in batch) for batch in batches)
    sizes = [sum(map(len, batch)) for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= max(batch_size, 2 * parts * least)
    assert batches == epoch_batches(n, batch_size, parts, seed, epoch, least)


@given(st.integers(8, 60), st.integers(8, 20), st.integers(1, 2), st.integers(1, 3))
def test_processes_divide_the_batches_of_one(n, batch_size, least, epoch):
    """Two processes of one part, and one process of two, take the same parts of the same batches."""
    config = replace(CONFIG, batch_size=batch_size)
    two = [list(Schedule(n, config, 2, index, least, epoch)) for index in (0, 1)]
    one = list(Schedule(n, replace(config, grad_accum=2), least=least, epoch=epoch))
    assert [part for step in zip(*two, strict=True) for part in step] == one
    assert sorted(key for part in one for key in part) == [(epoch, index) for index in range(n)]


def test_epochs_differ_in_order():
    assert epoch_batches(50, 8, 1, 0, 1) != epoch_batches(50, 8, 1, 0, 2)


def test_class_weights_favour_the_minority():
    """Largest class / N_j; the papers' printed formula N_j / N would favour the majority."""
    assert class_weights([0] * 6 + [1] * 3 + [2], 3).tolist() == [1, 2, 6]


def test_the_papers_and_the_notebooks_protocol():
    paper, notebook = recipe("paper"), recipe("notebook")
    assert paper == TrainConfig()
    assert recipe("modern") == replace(paper, ema_decay=0.99, label_smoothing=0.1)
    assert (paper.optimizer, paper.lr, paper.batch_size, paper.epochs, paper.patience) == ("adam", 1e-4, 8, 200, 25)
    assert (paper.lr_factor, paper.lr_patience, paper.monitor) == (0.9, 12, "val_loss")
    assert (paper.rotation_p, paper.shift_p, paper.img_size) == (0.45, 0.2, 224)
    assert resolve_interpolation(paper).interpolation == "nearest"
    assert resolve_interpolation(recipe("paper", model="cvrnet_lite")).interpolation == "bilinear"
    assert resolve_interpolation(recipe("paper", model="resnet18")).interpolation == "nearest"
    with pytest.raises(UserError, match="interpolation 'nosuch' is not known"):
        resolve_interpolation(replace(paper, interpolation="nosuch"))
    assert (notebook.optimizer, notebook.lr_factor, notebook.lr_patience) == ("adamax", 0.1, 4)
    assert (notebook.patience, notebook.monitor, notebook.rotation_p, notebook.shift_p) == (13, "val_accuracy", 0, 0)
    with pytest.raises(UserError, match="unknown recipe 'keras'"):
        recipe("keras")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("lr", lr) for lr in (0, -1.0, math.nan, math.inf, "fast", None)),
        *(("batch_size", size) for size in (0, -8, 8.5, 10**9)),
        *(("epochs", epochs) for epochs in (0, -1, 2.5, math.nan)),
        *(("seed", seed) for seed in (-1, 2**32, 2**70, 0.5)),
        *(("num_workers", workers) for workers in (-1, 10**6)),
        *(("img_size", side) for side in (0, 100_000)),
        *(("drop_rate", rate) for rate in (-0.1, 1.1, math.nan)),
        ("monitor", "auc"),
        ("vflip_p", 1.5),
        ("in_chans", 2),
        ("val_fraction", 1),
        ("img_size", 2049),
    ],
)
def test_impossible_settings_are_named(setting, value):
    with pytest.raises(UserError, match=f"{setting}={value!r}; expected [^\\n]*$"):
        TrainConfig(**{setting: value})


def test_the_optimizers_are_timms():
    """Every one can be made, except the one that needs second derivatives, and those whose package is not there."""
    weights, refused = [torch.nn.Parameter(torch.ones(2, 2))], {}
    for name in timm.optim.list_optimizers():
        try:
            create_optimizer(weights, name, 1e-3)
        except UserError as error:
            refused[name] = str(error)
    assert "adahessian" in refused
    assert all(name == "adahessian" or name.startswith(("bnb", "fused")) for name in refused)
    assert all(text.startswith(f"optimizer={name!r}") and "\n" not in text for name, text in refused.items())
    assert type(create_optimizer(weights, "Lookahead_AdamW", 1e-3)) is timm.optim.Lookahead


@pytest.mark.parametrize("name", ["nosuch", "lookahead_nosuch", "adam ", "", "adahessian"])
def test_an_unknown_optimizer_is_refused_with_the_known_ones(name):
    with pytest.raises(UserError, match=rf"^optimizer={name!r}; expected one of [^\n]*adam, [^\n]*sgd[^\n]*$"):
        TrainConfig(optimizer=name)


@pytest.mark.parametrize(
    ("model", "side", "expected"),
    [
        ("test_resnet", 64, 1),
        ("test_resnet", 32, 2),  # the deepest map is 1 x 1
        ("mobilenetv4_conv_small_050", 64, 2),  # a batch norm after the global pooling
        ("test_vit", 64, 1),  # none
        ("cvrnet_tiny", 64, 1),
        ("cvrnet_tiny", 32, 2),
    ],
)
def test_whether_a_network_trains_on_one_image_is_seen_on_the_network(model, side, expected):
    """The reference is torch's own batch norm."""
    config = TrainConfig(model=model, pretrained=False, img_size=side)
    network = create_for_training(config, 3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert smallest_part(network, config) == expected
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with nullcontext() if expected == 1 else pytest.raises(ValueError, match="more than 1 value per channel"):
        network(torch.zeros(1, 3, 64 if model == "test_vit" else side, side))
    network(torch.zeros(expected, 3, side, side))


@pytest.mark.parametrize(("batch_size", "grad_accum"), [(2, 1), (3, 1), (4, 2)])
def test_no_image_is_left_alone_with_a_batch_norm(phantoms, tmp_path, batch_size, grad_accum):
    records = read_records(phantoms)
    train_set = [r for label in ("CVP", "NCP", "NOR") for r in [r for r in records if r.label == label][:3]][:-2]
    config = replace(CONFIG, img_size=32, epochs=1, batch_size=batch_size, grad_accum=grad_accum)
    steps = []
    fit(
        config,
        train_set,
        records[:6],
        ["CVP", "NCP", "NOR"],
        ImageCache((32, 32), mode="RGB"),
        tmp_path,
        progress=Progress(step=lambda images, loss: steps.append(images)),
    )
    assert sum(steps) == 7
    assert min(steps) >= 2 * grad_accum


def test_too_few_images_for_a_batch_norm_are_refused_before_training(phantoms, tmp_path):
    alone = replace(CONFIG, img_size=32, batch_size=1)
    with pytest.raises(UserError, match=r"batch_size=1 cannot be divided into 1 parts .* norm needs; .* at least 2$"):
        train(phantoms, tmp_path / "run", alone, **PLAIN)
    accumulated = replace(CONFIG, img_size=32, batch_size=6, grad_accum=4)
    with pytest.raises(UserError, match=r"batch_size=6 cannot be divided into 4 parts .* at least 8$"):
        train(phantoms, tmp_path / "run", accumulated, **PLAIN)
    with pytest.raises(UserError, match=r"^inception_v3 cannot take images of 32 pixels \([^\n]*\)$"):
        train(phantoms, tmp_path / "run", TrainConfig(model="inception_v3", pretrained=False, img_size=32), **PLAIN)
    assert not (tmp_path / "run").exists()
    records = read_records(phantoms)[:1]
    with pytest.raises(UserError, match="training images=1 cannot be divided"):
        fit(
            replace(CONFIG, img_size=32),
            records,
            records,
            ["CVP", "NCP", "NOR"],
            ImageCache((32, 32), mode="RGB"),
            tmp_path,
        )
    assert not any(tmp_path.iterdir())


def test_one_image_at_a_time_trains_where_the_network_can(phantoms, tmp_path):
    train(phantoms, tmp_path, replace(LIGHT, batch_size=1, epochs=1), **PLAIN)
    assert len(rows(tmp_path / "history.csv")) == 1


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_one_step_is_kerass_weighted_loss(phantoms, tmp_path, smoothing):
    """Keras divides the weighted sum by the number of images; torch's ``weight=`` would divide by the weights' sum."""
    records = read_records(phantoms)
    classes = ["CVP", "NCP", "NOR"]
    train_set = [r for r in records if r.label == "NOR"][:4] + [r for r in records if r.label == "CVP"][:2]
    train_set += [r for r in records if r.label == "NCP"][:1]
    flat = {"rotation_p": 0, "shift_p": 0, "hflip_p": 0, "vflip_p": 0}
    config = replace(CONFIG, epochs=1, optimizer="momentum", lr=0.1, amp="fp32", **flat)
    config = replace(config, label_smoothing=smoothing)
    cache = ImageCache((64, 64), mode="RGB")
    cache.build(records)

    torch.manual_seed(config.seed)
    model = timm.create_model("cvrnet", num_classes=3, encoders=config.encoders).train()
    model = model.to(memory_format=torch.channels_last)
    x = torch.stack([torch.from_numpy(cache.load(r.path).transpose(2, 0, 1).copy()) for r in train_set])
    y = torch.tensor([classes.index(r.label) for r in train_set])
    weights = torch.tensor([2.0, 4.0, 1.0])  # of 2, 1 and 4 images
    targets = (1 - smoothing) * torch.nn.functional.one_hot(y, 3) + smoothing / 3
    losses = -(targets * model(Preprocessing.from_model(model).normalize(x)).log_softmax(-1)).sum(-1)
    (losses * weights[y]).sum().div(len(y)).backward()
    expected = {name: p.detach() - 0.1 * p.grad for name, p in model.named_parameters()}

    fit(config, train_set, records[:6], classes, cache, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    for name, value in expected.items():
        torch.testing.assert_close(saved[name], value, rtol=1e-4, atol=2e-6)


def test_a_run_is_whole(run, phantoms):
    assert {p.name for p in run.iterdir()} == RUN_FILES | {"figures", "tables", "report.html", "checklist.md"}
    described = json.loads((run / "run.json").read_text())
    assert described["classes"] == ["CVP", "NCP", "NOR"]
    assert described["config"]["encoders"] == list(CONFIG.encoders)
    records = read_records(phantoms)
    split = {row["path"]: row["fold"] for row in rows(run / "split.csv")}
    assert split.keys() == {r.name for r in records}
    assert all((split[r.name] == "independent") == (r.source == "site-b") for r in records)
    patients: dict[str, set[str]] = {}
    for r in records:
        patients.setdefault(r.patient_id, set()).add(split[r.name])
    assert all(len(folds) == 1 for folds in patients.values())
    predicted = rows(run / "predictions.csv")
    assert {row["path"] for row in predicted} == {name for name, fold in split.items() if fold != "train"}
    assert list(predicted[0])[:6] == ["path", "label", "prediction", "prob_CVP", "prob_NCP", "prob_NOR"]
    metrics = json.loads((run / "metrics.json").read_text())
    test = [row for row in predicted if row["split"] == "independent"]
    assert metrics["independent"]["accuracy"] == np.mean([row["label"] == row["prediction"] for row in test])
    assert {p.stem for p in (run / "figures").iterdir()} >= {
        "confusion_matrix",
        "roc",
        "precision_recall",
        "learning_curves",
    }


def test_timm_loads_a_run_offline(run, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a trained checkpoint needs no network"))
    plain = timm.create_model(f"local-dir:{run}", pretrained=True).eval()
    ours = load_checkpoint(run)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(plain(x), ours(x))
    assert checkpoint_classes(plain) == ["CVP", "NCP", "NOR"]
    assert Preprocessing.from_model(plain).input_size == (3, 64, 64)
    assert plain.pretrained_cfg["interpolation"] == "nearest"


def check_best_epoch(run: Path) -> None:
    """Validation while training and evaluation afterwards are one route: the same numbers to the last bit."""
    history = rows(run / "history.csv")
    best = min(history, key=lambda row: float(row["val_loss"]))
    assert [row["best"] for row in history][int(best["epoch"]) - 1] == "1"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["val"]["log_loss"] == float(best["val_loss"])


@pytest.mark.parametrize(
    ("config", "auto_precision"),
    [(LIGHT, "fp32"), (MODERN, "bf16")],
    indirect=["auto_precision"],
    ids=["paper-fp32", "modern-bf16"],
)
def test_an_interrupted_training_ends_the_same(phantoms, tmp_path, config):
    """Stopped in the middle of an epoch, then resumed: the same weights, bit for bit, and the same history."""
    config = replace(config, epochs=3, img_size=32)
    train(phantoms, tmp_path / "whole", config, **PLAIN)
    check_best_epoch(tmp_path / "whole")

    steps = 0

    def stop(images, loss):
        nonlocal steps
        steps += 1
        if steps == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            phantoms,
            tmp_path / "stopped",
            config,
            callbacks=Callbacks(training=lambda name, fold: Progress(step=stop)),
            **PLAIN,
        )
    assert (tmp_path / "stopped" / STATE).is_file()
    train(phantoms, tmp_path / "stopped", config, resume=True, **PLAIN)
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "stopped/model.safetensors").read_bytes()
    assert same_history(tmp_path / "whole", tmp_path / "stopped")
    assert not (tmp_path / "stopped" / STATE).exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_kill_9_loses_nothing(phantoms, tmp_path):
    """No file is there in part, and the training goes on to the same weights, bit for bit, and the same history."""
    command = ["train", phantoms, "--encoders", ",".join(LIGHT.encoders), "--no-pretrained", "--no-audit"]
    command += ["--img-size", 64, "--epochs", 4, "--lr", 1e-3, "--device", "cpu"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"

    def kill(child: int) -> None:
        limit = time.monotonic() + 300
        while not (killed / STATE).exists() and time.monotonic() < limit:
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)

    assert forks.run(tmp_path / "log", *command, "-o", killed, interrupt=kill).status == -signal.SIGKILL
    assert (killed / STATE).exists()
    assert not (killed / "metrics.json").exists()
    assert not broken(killed, killed=True)
    for output, options in ((killed, ["--resume"]), (whole, [])):
        ended = forks.run(tmp_path / "log", *command, "-o", output, *options)
        assert ended.status == 0, ended.err
    assert (whole / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
    assert same_history(whole, killed)


def test_an_existing_run_is_safe(run, phantoms, tmp_path):
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="--resume continues it, --overwrite replaces it"):
        train(phantoms, run, CONFIG, test_source="site-b", **PLAIN)
    with pytest.raises(UserError, match=r"another run \(lr is now 0.1, was 0.001\)"):
        train(phantoms, run, replace(CONFIG, lr=0.1), test_source="site-b", resume=True, **PLAIN)
    with pytest.raises(UserError, match="test_source is now ''"):
        train(phantoms, run, CONFIG, resume=True, **PLAIN)
    assert train(phantoms, run, CONFIG, test_source="site-b", resume=True, **PLAIN).keys() == {
        "val",
        "independent",
    }  # finished: as it is
    assert (run / "model.safetensors").read_bytes() == before
    with pytest.raises(UserError, match="unknown model 'cvrnot'"):
        train(phantoms, run, replace(CONFIG, model="cvrnot", encoders=()), overwrite=True, **PLAIN)
    assert (run / "model.safetensors").read_bytes() == before  # only a model that can be made replaces it
    (tmp_path / "mine.txt").write_text("not a run")
    with pytest.raises(UserError, match="is not a run"):
        train(phantoms, tmp_path, CONFIG, overwrite=True, **PLAIN)
    assert (tmp_path / "mine.txt").exists()


def test_bad_images_stop_the_run_before_it_starts(phantoms, tmp_path):
    records = read_records(phantoms)
    broken = phantoms.parent / "broken.csv"
    bad = [phantoms.parent / f"bad-{i}.png" for i in range(3)]
    for path in bad:
        path.write_text("not an image")
    write_manifest(broken, [*records, *(replace(records[i], path=p, name=p.name) for i, p in enumerate(bad))])
    with pytest.raises(DataError) as error:
        train(broken, tmp_path / "run", CONFIG, **PLAIN)
    assert len(error.value.problems) == 3
    assert all(path.name in str(error.value) for path in bad)
    assert not (tmp_path / "run").exists()


def test_splits_by_column_and_by_source(phantoms):
    records = read_records(phantoms)
    with pytest.raises(UserError, match="unknown test source 'site-c'; the data set has site-a, site-b"):
        holdout_sets(records, test_source="site-c")
    patients = sorted({r.patient_id for r in records})
    column = [replace(r, split={0: "val", 1: "test"}.get(patients.index(r.patient_id) % 5, "train")) for r in records]
    sets = holdout_sets(column)
    assert [r.name for r in sets["val"]] == [r.name for r in column if r.split == "val"]
    assert [r.name for r in sets["independent"]] == [r.name for r in column if r.split == "test"]
    with pytest.raises(UserError, match="no image is left to train on"):
        holdout_sets([replace(r, split="test") for r in records])


def test_a_patient_in_the_test_source_and_elsewhere_is_refused(phantoms):
    records = read_records(phantoms)
    moved = [replace(r, source="site-b" if i == 0 else "site-a", patient_id="p") for i, r in enumerate(records[:2])]
    with pytest.raises(UserError, match="patient 'p' is in"):
        holdout_sets([*moved, *records[2:]], test_source="site-b")


def test_classes_are_one_map(phantoms, tmp_path):
    """A validation set that lacks a class is scored by the training set's map; a class that none trains is an error."""
    records = read_records(phantoms)
    pairs = [r for r in records if sum(o.patient_id == r.patient_id for o in records) == 1]
    val = {r.name for r in pairs if r.label != "NOR"}
    manifest = phantoms.parent / "lacking.csv"
    write_manifest(manifest, [replace(r, split="val" if r.name in val else "train") for r in records])
    metrics = train(manifest, tmp_path / "run", replace(CONFIG, epochs=1), classes=["NOR", "CVP", "NCP"], **PLAIN)
    assert metrics["val"]["classes"] == ["NOR", "CVP", "NCP"]
    assert metrics["val"]["per_class"]["NOR"]["support"] == 0
    only = phantoms.parent / "only-val.csv"
    of_label = {r.patient_id for r in records if r.label == "NCP"}
    write_manifest(only, [replace(r, split="val" if r.patient_id in of_label else "train") for r in records])
    with pytest.raises(UserError, match="no training image of class NCP"):
        train(only, tmp_path / "other", CONFIG, **PLAIN)


def test_any_timm_classifier_trains_with_the_same_preprocessing(phantoms, tmp_path):
    config = TrainConfig(model="test_vit", pretrained=False, img_size=64, in_chans=1, epochs=1)
    train(phantoms, tmp_path, config, **PLAIN)
    model = load_checkpoint(tmp_path)
    cfg = model.pretrained_cfg
    assert (cfg["architecture"], cfg["interpolation"], cfg["crop_mode"]) == ("test_vit", "nearest", "squash")
    assert Preprocessing.from_model(model).input_size == (1, 64, 64)


@pytest.mark.parametrize("start", [train, cross_validate])
def test_a_network_that_cannot_be_made_leaves_no_run_folder(phantoms, tmp_path, start):
    with pytest.raises(UserError, match="unknown model 'cvrnot'"):
        start(phantoms, tmp_path / "run", replace(CONFIG, model="cvrnot", encoders=()), **PLAIN)
    assert not (tmp_path / "run").exists()


def test_a_trained_model_is_a_starting_point(run, phantoms, tmp_path):
    """``--model local-dir:RUN`` starts from a run's weights; other classes get fresh classifiers."""
    config = TrainConfig(model=f"local-dir:{run}", pretrained=False, img_size=64, epochs=1, lr=1e-12)
    train(phantoms, tmp_path / "again", config, **PLAIN)
    before, after = (load_file(folder / "model.safetensors") for folder in (run, tmp_path / "again"))
    name = "head.blocks.0.classifier.weight"
    torch.testing.assert_close(before[name], after[name])
    two = phantoms.parent / "two-classes.csv"
    write_manifest(two, [r for r in read_records(phantoms) if r.label != "NOR"])
    train(two, tmp_path / "two", config, **PLAIN)
    assert checkpoint_classes(load_checkpoint(tmp_path / "two")) == ["CVP", "NCP"]
    with pytest.raises(UserError, match="cannot load local-dir:nowhere"):
        train(phantoms, tmp_path / "x", replace(config, model="local-dir:nowhere"), **PLAIN)


def test_a_diverging_training_says_so(phantoms, tmp_path):
    with pytest.raises(UserError, match=r"the loss is .* in epoch \d; try a lower lr"):
        train(phantoms, tmp_path, replace(CONFIG, optimizer="momentum", lr=1e30, epochs=3), **PLAIN)


def test_training_stops_when_nothing_improves(phantoms, tmp_path):
    # This seed improves again after epochs without improvement.
    config = replace(LIGHT, seed=0, epochs=40, img_size=32, patience=2, lr_patience=1, lr_factor=0.5, lr=3e-3)
    train(phantoms, tmp_path, config, **PLAIN)
    history = rows(tmp_path / "history.csv")
    best = max(int(row["epoch"]) for row in history if row["best"] == "1")
    assert len(history) == min(40, best + 2)
    # The rate halves after each epoch without improvement.
    for before, after in itertools.pairwise(history):
        expected = float(before["lr"]) * (1.0 if before["best"] == "1" else 0.5)
        assert float(after["lr"]) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="forks")
def test_two_processes_take_the_step_of_one(phantoms, tmp_path):
    """One step of two processes is the step of one process that accumulates the same two half-batches."""
    records = read_records(phantoms)
    keep = {r.name for r in records if r.source == "site-a"}
    manifest = phantoms.parent / "one-batch.csv"
    write_manifest(manifest, [replace(r, split="train" if r.name in keep else "val", patient_id="") for r in records])
    config = replace(CONFIG, epochs=1, batch_size=64, device="cpu", amp="fp32", optimizer="momentum", lr=0.05)
    config = replace(config, ema_decay=0.9, label_smoothing=0.1)
    train(manifest, tmp_path / "one", replace(config, grad_accum=2), **PLAIN)
    options = ["--no-pretrained", "--encoders", ",".join(config.encoders), "--img-size", "64", "--epochs", "1"]
    options += ["--batch-size", "64", "--device", "cpu", "--amp", "fp32", "--optimizer", "momentum", "--lr", "0.05"]
    options += ["--ema-decay", "0.9", "--label-smoothing", "0.1"]
    run_pair(tmp_path / "log", ["train", manifest, "-o", tmp_path / "two", "--no-audit", *options])
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    torch.manual_seed(config.seed)
    start = timm.create_model("cvrnet", num_classes=3, encoders=config.encoders)
    for name, parameter in start.named_parameters():
        step_one, step_two = one[name] - parameter, two[name] - parameter
        assert (step_one - step_two).norm() <= 1e-3 * step_one.norm() + 1e-7, name
    assert not torch.equal(one["head.blocks.0.classifier.weight"], start.head.blocks[0].classifier.weight)
    assert {p.name for p in (tmp_path / "one").iterdir()} == {p.name for p in (tmp_path / "two").iterdir()}
    (history,) = rows(tmp_path / "two/history.csv")  # scored by both processes together
    alone = json.loads((tmp_path / "two/metrics.json").read_text())["val"]  # scored by one
    assert float(history["val_loss"]) == pytest.approx(alone["log_loss"], abs=1e-6)
    assert float(history["val_accuracy"]) == alone["accuracy"]
    assert float(history["train_loss"]) == pytest.approx(
        float(rows(tmp_path / "one/history.csv")[0]["train_loss"]), rel=1e-4
    )


@pytest.fixture
def started(monkeypatch):
    """The processes that the test starts."""
    processes = []
    start = multiprocessing.process.BaseProcess.start

    def counted(process):
        processes.append(process)
        start(process)

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", counted)
    return processes


@pytest.fixture(scope="module")
def alone(phantoms, tmp_path_factory):
    """The weights of a training without workers."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    train(phantoms, folder, LIGHT, **PLAIN)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_loading_processes_start_once(phantoms, alone, tmp_path, started, method):
    """One start for each worker, however many epochs; none is left; the weights are those without workers."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    try:
        train(phantoms, tmp_path / "workers", replace(LIGHT, num_workers=1), **PLAIN)
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert [process.is_alive() for process in started] == [False]
    weights = load_file(tmp_path / "workers" / "model.safetensors")
    assert all(torch.equal(weights[name], alone[name]) for name in alone)


def test_loading_processes_end_with_an_interrupted_training(phantoms, tmp_path, started):
    def stop(images, loss):
        raise KeyboardInterrupt

    callbacks = Callbacks(training=lambda name, fold: Progress(step=stop))
    with pytest.raises(KeyboardInterrupt) as kept:
        train(phantoms, tmp_path, replace(CONFIG, num_workers=2), callbacks=callbacks, **PLAIN)
    assert kept.tb is not None, "as in a notebook, which keeps the traceback and so every frame"
    assert [process.is_alive() for process in started] == [False, False]


def test_trainings_of_different_precision_follow_one_another(phantoms, tmp_path):
    """In a notebook: a training in each format, beside an Accelerator of the user's own, which fixes another format."""
    accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    try:
        for i, amp in enumerate(["fp32", "bf16", "fp32"]):
            train(phantoms, tmp_path / str(i), replace(LIGHT, epochs=1, amp=amp, device="cpu"), **PLAIN)
    finally:
        accelerate.state.AcceleratorState._reset_state()
    first, other, again = (load_file(tmp_path / str(i) / "model.safetensors") for i in range(3))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_processes_wait_for_the_main_one_longer_than_ten_minutes(monkeypatch):
    """The main process decodes, audits and evaluates; NCCL's default would end the others."""
    given = {}
    state = accelerate.PartialState
    monkeypatch.setattr("cvrnet.training.processes.PartialState", lambda **named: given.update(named) or state())
    Processes("cpu")
    assert given["timeout"].days >= 1


def test_accelerate_that_started_too_few_processes_is_told(phantoms, tmp_path, monkeypatch):
    """Without several GPUs ``accelerate launch --num_processes 2`` starts one process and says nothing."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(UserError, match="add --multi_gpu"):
        train(phantoms, tmp_path / "run", CONFIG, **PLAIN)


@pytest.mark.realdata
def test_real_radiographs_with_an_independent_source(cxr, tmp_path):
    """Two sources train, the third tests; patients with several labels stay whole."""
    every = read_records(cxr / "manifest.csv")
    patients = sorted({r.patient_id for r in every if r.source != "figure1"})[::10]
    kept = [r for r in every if r.source == "figure1" or r.patient_id in patients]
    write_manifest(tmp_path / "m.csv", kept, root=cxr)
    data = DataSet(tmp_path / "m.csv", cxr)
    metrics = train(data, tmp_path / "run", replace(LIGHT, epochs=1), test_source="figure1", **PLAIN)
    assert metrics["independent"]["n"] == 36
    assert [metrics["independent"]["per_class"][c]["support"] for c in ("CVP", "NCP", "NOR")] == [31, 2, 3]
    sides: dict[str, set[str]] = {}
    for row in rows(tmp_path / "run/split.csv"):
        sides.setdefault(row["patient_id"], set()).add(row["fold"])
    assert all(len(folds) == 1 for folds in sides.values())
    assert len(sides) == 131

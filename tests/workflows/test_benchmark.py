"""Many models on the same folds, parts of the network left out, and each source left out in turn."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch

from cvrnet.data import read_records, write_manifest
from cvrnet.errors import UserError
from cvrnet.files import slug
from cvrnet.inference import Predictor
from cvrnet.metrics import corrected_resampled_t_test
from cvrnet.runs.checkpoint import load_checkpoint
from cvrnet.text import sheet_cell
from cvrnet.training import Progress, TrainConfig
from cvrnet.training.processes import Processes
from cvrnet.workflows import Callbacks, benchmark, cross_validate, leave_one_source_out
from cvrnet.workflows.benchmark_table import benchmark_rows, brief_rows, collect_benchmark
from cvrnet.workflows.sweep import ABLATIONS, model_config, source_rows
from tests.conftest import PLAIN, TINY
from tests.support.figures import real_figures

CONFIG = TrainConfig(**{**TINY, "model": "-", "encoders": (), "img_size": 32, "epochs": 1})
JOB = {"n_folds": 3, "test_source": "site-b", **PLAIN}
MODELS = ["test_resnet", "cvrnet_tiny", "cvrnet_tiny:p3"]


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def table(phantoms, tmp_path_factory):
    """Interrupted in the second model, and gone on with."""
    folder = tmp_path_factory.mktemp("benchmark") / "table"
    trained = []

    def stop(model, fold):
        def step(images, loss):
            if (model, fold) == ("cvrnet_tiny", 2):
                raise KeyboardInterrupt

        return Progress(step=step, end=lambda row: trained.append((model, fold)))

    with pytest.raises(KeyboardInterrupt):
        benchmark(
            phantoms,
            folder,
            MODELS[:2],
            CONFIG,
            n_folds=3,
            test_source="site-b",
            callbacks=Callbacks(training=stop),
            **PLAIN,
        )
    assert json.loads((folder / "benchmark.json").read_text())["unfinished"] == ["cvrnet_tiny"]
    with pytest.raises(UserError, match="--resume continues it"):
        benchmark(phantoms, folder, MODELS, CONFIG, **JOB)
    with pytest.raises(UserError, match=r"another run \(lr is now 0.5"):
        benchmark(
            phantoms, folder, MODELS, replace(CONFIG, lr=0.5), n_folds=3, test_source="site-b", resume=True, **PLAIN
        )

    def go_on(model, fold):
        return Progress(end=lambda row: trained.append((model, fold)))

    benchmark(
        phantoms,
        folder,
        MODELS[2:],
        CONFIG,
        n_folds=3,
        test_source="site-b",
        resume=True,
        callbacks=Callbacks(training=go_on),
        **PLAIN,
    )
    assert trained == [(model, fold) for model in MODELS for fold in (1, 2, 3)]  # nothing twice, nothing left out
    return folder


def test_all_models_have_the_same_folds(table):
    result = json.loads((table / "benchmark.json").read_text())
    assert list(result["models"]) == MODELS
    assert result["unfinished"] == []
    folds = {row["path"]: row["fold"] for row in rows(table / "split.csv")}
    for folder in table.glob("*/split.csv"):
        assert {r["path"]: r["fold"] for r in rows(folder) if r["fold"] != "independent"} == folds
    assert len(list(table.glob("*/split.csv"))) == 3


def test_the_table_is_the_runs(table):
    result = json.loads((table / "benchmark.json").read_text())
    assert result["reference"] == "test_resnet"  # the first: the models' own name is not among them
    written = rows(table / "benchmark.csv")
    assert written == [{key: sheet_cell(text) for key, text in row.items()} for row in benchmark_rows(result)]
    for model, row in zip(MODELS, written, strict=True):
        (run,) = [p.parent for p in table.glob("*/run.json") if _named(p, model)]
        summary = json.loads((run / "summary.json").read_text())
        accuracy = [fold["accuracy"] for fold in summary["folds"]]
        assert row["accuracy"] == f"{np.mean(accuracy):.3f} ± {np.std(accuracy):.3f}"
        outside = [fold["accuracy"] for fold in summary["independent"]["folds"]]
        assert row["accuracy on site-b"] == f"{np.mean(outside):.3f} ± {np.std(outside):.3f}"
        network = load_checkpoint(run / "fold-1")
        assert result["models"][model]["parameters"] == sum(p.numel() for p in network.parameters())
        seconds = sum(float(r["seconds"]) for k in (1, 2, 3) for r in rows(run / f"fold-{k}/history.csv"))
        assert result["models"][model]["training_seconds"] == pytest.approx(seconds)
        assert result["models"][model]["speed"]["images_per_second"] > 0
    assert "Nadeau and Bengio" in (table / "benchmark.md").read_text()
    with real_figures():
        collect_benchmark(table)
    assert (table / "figures/benchmark.png").stat().st_size > 10_000


def _named(run_json, model):
    config = json.loads(run_json.read_text())["config"]
    expected = model_config(model, CONFIG)
    return (config["model"], config["model_kwargs"]) == (expected.model, dict(expected.model_kwargs))


def test_differences_are_those_of_the_paired_folds(table):
    result = json.loads((table / "benchmark.json").read_text())
    ours, theirs = (result["models"][m]["folds"]["accuracy"] for m in MODELS[:2])
    inside = len(rows(table / "split.csv"))
    expected = corrected_resampled_t_test([b - a for a, b in zip(ours, theirs, strict=True)], inside // 3, inside // 3)
    found = result["models"]["cvrnet_tiny"]["difference"]["accuracy"]
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert found["p_holm"] >= found["p"]
    assert "difference" not in result["models"]["test_resnet"]


def test_collecting_again_changes_nothing(table):
    before = (table / "benchmark.json").read_bytes()
    collect_benchmark(table)
    assert (table / "benchmark.json").read_bytes() == before


@pytest.mark.parametrize("part", ABLATIONS)
def test_parts_left_out(part):
    config = model_config(f"cvrnet_tiny:{part}", TrainConfig(pretrained=False))
    options = {**config.model_kwargs, **({"encoders": config.encoders} if config.encoders else {})}
    torch.manual_seed(0)
    network = timm.create_model(config.model, num_classes=3, **options).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        heads, answer = network.branch_logits(x), network(x)
    assert len(heads) == {"encoder1": 3, "encoder2": 3, "p3": 1, "mean-logits": 5}[part]
    if part == "mean-logits":
        torch.testing.assert_close(answer, torch.stack(heads).mean(0))
    else:
        torch.testing.assert_close(answer.softmax(-1), torch.stack(heads).softmax(-1).mean(0))
    network.pretrained_cfg["label_names"] = ["CVP", "NCP", "NOR"]
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    predictor = Predictor([network], dtype="fp32")
    with torch.no_grad():
        expected = network(predictor.preprocessing.normalize(pixels)).softmax(-1)
    np.testing.assert_allclose(predictor.probabilities(pixels), expected, atol=1e-5)
    assert predictor.averages_probabilities == (part != "mean-logits")
    if part == "encoder2":
        assert network.encoder_names == ["test_byobnet"]
    if part == "p3":
        assert network.widths == [sum(e.channels[-1] for e in network.encoders)]


def test_a_model_that_does_not_fit_is_named_before_anything_is_trained(phantoms, tmp_path):
    for models, message in [
        (["test_resnet", "nonsense"], "unknown model 'nonsense'"),
        (["cvrnet_tiny:p9"], "unknown ablation 'p9' of cvrnet_tiny; expected encoder1"),
        (["resnet18:p3"], "'resnet18' is not a CVR-Net of two encoders"),
        (["inception_v3"], r"inception_v3 cannot take images of 32 pixels \(.*\); leave out inception_v3"),
    ]:
        with pytest.raises(UserError, match=message):
            benchmark(phantoms, tmp_path / "table", models, CONFIG, n_folds=3, **PLAIN)
        assert not (tmp_path / "table").exists()
    with pytest.raises(UserError, match="unknown test source 'mars'"):
        benchmark(phantoms, tmp_path / "table", ["test_resnet"], CONFIG, n_folds=3, test_source="mars", **PLAIN)
    assert not (tmp_path / "table").exists()


def test_the_command(cli, table, phantoms):
    common = [
        "--no-audit",
        "--no-maps",
        "--img-size",
        32,
        "--no-pretrained",
        "--epochs",
        1,
        "--lr",
        "1e-3",
        "--folds",
        3,
        "--test-source",
        "site-b",
    ]
    status, out, err = cli("benchmark", phantoms, "--models", "test_resnet", "-o", table, *common, "--resume")
    assert status == 0, err
    assert [line.split()[0] for line in out.splitlines()] == ["model", *MODELS]
    status, out, _ = cli(
        "benchmark", phantoms, "--models", "test_resnet", "-o", table, *common, "--resume", "--format", "csv"
    )
    assert out == (table / "benchmark.csv").read_text(encoding="utf-8")
    assert cli("benchmark", phantoms, "--models", "test_resnet", "-o", table, *common)[0] == 1
    other = ["--folds", 4, "--test-source", "site-b"]
    status, _, err = cli(
        "benchmark", phantoms, "--models", "test_resnet", "-o", table, *common[:-4], *other, "--resume"
    )
    assert (status, "folds is now 4, was 3" in err) == (1, True)


def test_each_source_left_out(phantoms, tmp_path, cli):
    config = replace(CONFIG, model="cvrnet", encoders=("test_resnet",))
    summary = leave_one_source_out(phantoms, tmp_path / "shift", config, n_folds=3, **PLAIN)
    assert list(summary["sources"]) == ["site-a", "site-b"]
    for source, row in summary["sources"].items():
        run = json.loads((tmp_path / "shift" / source / "summary.json").read_text())
        assert run["test_source"] == source
        assert row["drop_in_accuracy"] == run["independent"]["drop_in_accuracy"]
        assert row["heads"][0]["scores"]["P1"] == run["independent"]["pooled"]["heads"][0]["scores"]["P1"]
        inside = [r for r in rows(tmp_path / "shift" / source / "split.csv") if r["fold"] != "independent"]
        assert inside
        assert source not in {r["source"] for r in inside}
    assert [row["source left out"] for row in source_rows(summary)] == ["site-a", "site-b"]
    again = leave_one_source_out(phantoms, tmp_path / "shift", config, n_folds=3, resume=True, **PLAIN)
    assert again == summary
    with pytest.raises(UserError, match="--resume continues it"):
        leave_one_source_out(phantoms, tmp_path / "shift", config, n_folds=3, **PLAIN)
    (tmp_path / "shift/site-b/run.json").unlink()
    with pytest.raises(UserError, match="site-b exists and is not a run"):
        leave_one_source_out(phantoms, tmp_path / "shift", config, n_folds=3, resume=True, **PLAIN)


def test_each_model_gets_images_at_its_own_interpolation(phantoms, tmp_path):
    said, models = [], {"cvrnet_tiny": "nearest", "cvrnet_lite:encoder1": "bilinear"}
    config = replace(CONFIG, freeze="all")
    calls = Callbacks(say=said.append)
    benchmark(phantoms, tmp_path / "table", list(models), config, n_folds=3, callbacks=calls, **PLAIN)
    sentence = (
        "Images are resized by each model's own interpolation: nearest for cvrnet_tiny, bilinear for "
        "cvrnet_lite:encoder1."
    )
    assert f"{sentence} --interpolation sets the same interpolation for all models" in said
    assert sentence in (tmp_path / "table/benchmark.md").read_text()
    assert json.loads((tmp_path / "table/run.json").read_text())["config"]["interpolation"] == "auto"
    for model, interpolation in models.items():
        run = tmp_path / "table" / slug(model)
        assert json.loads((run / "run.json").read_text())["config"]["interpolation"] == interpolation
        tested = rows(run / "fold-1/predictions.csv")[:4]
        predictor = Predictor.from_pretrained(run / "fold-1")  # resizes as the fold's config.json says
        assert predictor.preprocessing.interpolation == interpolation
        for row, found in zip(tested, predictor([phantoms.parent / row["path"] for row in tested]), strict=True):
            written = [float(row[f"prob_{name}"]) for name in predictor.classes]
            np.testing.assert_allclose(found.probabilities, written, atol=1e-4)


def test_images_of_the_test_split_have_a_column_and_a_leave_one_source_out_counts_those_it_leaves_out(
    phantoms, tmp_path
):
    records = read_records(phantoms)
    first = {label: min(r.patient_id for r in records if r.label == label) for label in ("CVP", "NCP", "NOR")}
    held = [r for r in records if r.patient_id in first.values()]
    manifest = phantoms.parent / "split-of-the-table.csv"
    write_manifest(manifest, [replace(r, split="test" if r in held else "") for r in records])
    result = benchmark(manifest, tmp_path / "table", ["test_resnet"], CONFIG, n_folds=3, **PLAIN)
    (row,), (brief,) = benchmark_rows(result), brief_rows(result)
    scores = json.loads((tmp_path / "table/test_resnet/summary.json").read_text())["independent"]["folds"]
    assert [fold["n"] for fold in scores] == [len(held)] * 3
    mean = np.mean([fold["balanced_accuracy"] for fold in scores])
    assert row["balanced accuracy on split=test"].startswith(f"{mean:.3f} ±")
    assert brief["balanced accuracy on split=test"] == row["balanced accuracy on split=test"]
    assert {r["path"] for r in rows(tmp_path / "table/split.csv")}.isdisjoint(r.name for r in held)

    said = []
    config = replace(CONFIG, model="test_resnet")
    output = tmp_path / "shift"
    summary = leave_one_source_out(manifest, output, config, n_folds=3, callbacks=Callbacks(say=said.append), **PLAIN)
    for row in source_rows(summary):
        source = row["source left out"]
        left_out = {r.name for r in held if r.source != source}
        assert row["split=test left out"] == len(left_out)
        told = f"Left out, because split=test: {len(left_out)} images of other sources than {source}"
        assert (told in said) == bool(left_out)
        assert {r["path"] for r in rows(output / source / "split.csv")}.isdisjoint(left_out)


def test_a_failure_that_is_not_the_data_sets_stops_the_sweep(phantoms, tmp_path):
    """Only what every process finds in the data set is noted as a source's problem; other failures are raised."""
    with pytest.raises(UserError, match="unknown model 'cvrnot'"):
        leave_one_source_out(phantoms, tmp_path / "other", replace(CONFIG, model="cvrnot"), n_folds=3, **PLAIN)
    assert not (tmp_path / "other").exists()
    with pytest.raises(UserError, match="2 folds; expected at least 3"):
        leave_one_source_out(phantoms, tmp_path / "other", CONFIG, n_folds=2, **PLAIN)


def test_another_process_of_a_distributed_job_writes_and_shows_nothing(table, phantoms, tmp_path, cli, monkeypatch):
    """Also where no training is needed: finished runs, and sources that cannot be left out."""

    class Second(Processes):
        def __init__(self, device, amp):
            super().__init__(device, amp)
            self.is_main = False

    monkeypatch.setattr("cvrnet.workflows.job.Processes", Second)
    called = []
    callbacks = Callbacks(say=called.append, stage=called.append, training=lambda *run: called.append(run))
    run = table / "test_resnet"
    settings = json.loads((run / "run.json").read_text())["config"]
    config = TrainConfig(**{**settings, "encoders": tuple(settings["encoders"])})
    assert cross_validate(phantoms, run, config, resume=True, callbacks=callbacks, **JOB) == {}
    records = [r for r in read_records(phantoms) if (r.source == "site-a") == (r.label == "CVP")]
    data = phantoms.parent / "classes-of-one-site.csv"
    write_manifest(data, records)
    output = tmp_path / "run"
    assert leave_one_source_out(data, output, CONFIG, n_folds=3, callbacks=callbacks, **PLAIN) == {}
    assert not called
    status, out, _ = cli("crossval", data, "-o", output, "--leave-one-source-out", "--folds", 3, "--img-size", 64)
    assert (status, out, output.exists()) == (0, "", False)


def test_a_source_that_cannot_be_left_out_is_named_and_the_others_go_on(phantoms, tmp_path, cli):
    records = [r for r in read_records(phantoms) if r.source == "site-b" or r.label != "CVP"]
    data = phantoms.parent / "one-class-from-one-site.csv"
    write_manifest(data, records)
    model = ["--model", "test_resnet", "--img-size", 32, "--no-pretrained", "--epochs", 1, "--folds", 3]
    model += ["--no-audit", "--no-maps"]
    status, out, err = cli("crossval", data, "-o", tmp_path / "run", "--leave-one-source-out", *model)
    assert status == 0, err
    assert "no training image of class CVP" in out
    assert "without site-a, fold 3" in err
    assert cli("crossval", data, "-o", tmp_path / "run", "--leave-one-source-out", "--only-fold", 1)[0] == 2

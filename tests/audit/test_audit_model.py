"""The audit of a trained model: which model predicts which image, what is hidden, and what the findings say."""

import csv
import json
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from cvrnet.audit import Examination, Finding, audit, read_audited
from cvrnet.audit.examination import ONLY, WHOLE, WITHOUT, keep, read_mask
from cvrnet.audit.measurements import measure
from cvrnet.audit.metadata_findings import source_findings
from cvrnet.audit.model_findings import estimate_mean, model_findings
from cvrnet.audit.probes import probe
from cvrnet.audit.shortcuts import SEVERE_AUC, label_finding
from cvrnet.data import Preprocessing, Record, read_image, read_records, write_phantoms
from cvrnet.errors import UserError
from cvrnet.inference import Predictor
from cvrnet.metrics import bootstrap_intervals
from cvrnet.runs.held_out import held_out
from tests.conftest import PLAIN
from tests.support.measurements import no_local_features  # noqa: F401

LABELS = ["CVP", "NCP", "NOR"]


def record(name: str, label="NOR", source="a", patient="") -> Record:
    return Record(Path(f"/{name}"), name, label, source, patient)


# --- which model predicts an image


def run_folder(folder: Path, folds: dict[str, str], models: list[str]) -> Path:
    for model in models:
        (folder / model).mkdir(parents=True, exist_ok=True)
        (folder / model / "config.json").write_text("{}")
    with (folder / "split.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "source", "patient_id", "fold"])
        writer.writerows([name, "NOR", "a", f"p-{name}", fold] for name, fold in folds.items())
    return folder


def test_a_cross_validation_asks_the_model_that_did_not_see_the_image(tmp_path):
    run = run_folder(
        tmp_path, {"x": "1", "y": "2", "z": "3", "w": "10", "i": "independent"}, ["fold-1", "fold-2", "fold-10"]
    )
    (run / "fold-2" / "training-state.pt").touch()  # not finished
    records = [record(name, patient=f"p-{name}") for name in "xyzwi"]
    records += [record("x-again", patient="p-x"), record("elsewhere", source="b", patient="p-x")]
    asked = held_out(run, records)
    models = {name: [Path(asked.models[i]).name for i in of] for name, of in asked.models_for_image.items()}
    everyone = ["fold-1", "fold-10"]
    assert models == {"x": ["fold-1"], "w": ["fold-10"], "x-again": ["fold-1"], "i": everyone, "elsewhere": ["fold-1"]}
    assert asked.known  # y and z are of folds that are not trained yet


def test_one_fold_is_asked_about_its_own_images_only(tmp_path):
    run = run_folder(tmp_path, {"x": "1", "y": "2", "i": "independent"}, ["fold-1", "fold-2"])
    asked = held_out(run / "fold-2", [record(name, patient=f"p-{name}") for name in "xyi"])
    assert [Path(model).name for model in asked.models] == ["fold-2"]
    assert asked.models_for_image == {"y": (0,), "i": (0,)}


def test_a_run_of_one_model_is_not_asked_about_its_training_images(tmp_path):
    run = run_folder(tmp_path, {"x": "train", "y": "val", "z": "test"}, ["."])
    asked = held_out(f"local-dir:{run}", [record(name, patient=f"p-{name}") for name in "xyz"])
    assert asked.models_for_image == {"y": (0,), "z": (0,)}


def test_of_a_model_from_elsewhere_nothing_is_known():
    asked = held_out("hf-hub:user/repo", [record("x")])
    assert (asked.models, asked.models_for_image, asked.known) == (["hf-hub:user/repo"], {"x": (0,)}, False)


# --- what is hidden


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_nothing_of_what_is_hidden_shows_through(seed, colour):
    rng = np.random.default_rng(seed)
    kept = rng.random((6, 5)) < rng.random()
    first = rng.integers(256, size=(6, 5, 3) if colour else (6, 5)).astype(np.uint8)
    second = np.where(kept[..., None] if colour else kept, first, rng.integers(256, size=first.shape)).astype(np.uint8)
    assert np.array_equal(keep(first, kept), keep(second, kept))
    assert np.array_equal(keep(first, kept)[kept], first[kept])


def test_masks_that_cannot_be_used_are_named(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "empty.png")
    Image.fromarray(np.full((8, 4), 255, np.uint8)).save(tmp_path / "narrow.png")
    with pytest.raises(UserError, match=r"empty.png: the mask is empty"):
        read_mask(tmp_path / "empty.png", (8, 8))
    with pytest.raises(UserError, match=r"the mask has 4 x 8 pixels, the image 8 x 8"):
        read_mask(tmp_path / "narrow.png", (8, 8))
    assert read_mask(tmp_path / "narrow.png", (16, 8)).shape == (16, 8)


# --- what is said


def test_interval_is_that_of_the_library_of_metrics():
    rng = np.random.default_rng(0)
    wrong, patients = rng.random(300) < 0.3, [f"p{i // 3}" for i in range(300)]
    table = np.stack([~wrong, wrong], axis=1).astype(float)
    low, high = bootstrap_intervals(np.zeros(300, int), table, ["a", "b"], patients)["accuracy"]
    assert estimate_mean(wrong.astype(float), patients)[1:] == pytest.approx((1 - high, 1 - low), abs=0.015)


class Windows(nn.Module):
    """An honest reader: it looks at a window in each lung, and nowhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(36, 3)
        self.pretrained_cfg = {
            "input_size": (1, 64, 64),
            "mean": (0.5,),
            "std": (0.5,),
            "interpolation": "bilinear",
            "label_names": LABELS,
            "num_classes": 3,
            "architecture": "windows",
        }

    def look(self, x: Tensor) -> Tensor:
        left, right = (
            nn.functional.adaptive_avg_pool2d(x[:, :, 14:44, s], (4, 3)) for s in (slice(13, 24), slice(40, 51))
        )
        left, right = left.flatten(1), right.flip(-1).flatten(1)
        level = (left.mean(1, keepdim=True) + right.mean(1, keepdim=True)) / 2
        return torch.cat([left - level, right - level, (left - right).abs()], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.look(x))


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> Predictor:
    """`Windows`, fitted to phantoms with a shortcut that it cannot see."""
    model = Windows()
    preprocessing = Preprocessing.from_model(model)
    records = read_records(write_phantoms(tmp_path_factory.mktemp("seen") / "p", 240, size=64, seed=1, shortcut=True))
    images = np.stack([preprocessing.resize(read_image(r.path)) for r in records]).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        seen = model.look(preprocessing.normalize(torch.from_numpy(images))).numpy()
    fitted = LogisticRegression(C=10, max_iter=2000).fit(seen, [r.label for r in records])
    assert list(fitted.classes_) == LABELS
    model.linear.weight.data = torch.from_numpy(fitted.coef_).float()
    model.linear.bias.data = torch.from_numpy(fitted.intercept_).float()
    return Predictor([model], device="cpu")


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    """Phantoms with a shortcut."""
    return write_phantoms(tmp_path_factory.mktemp("planted") / "p", 150, size=64, shortcut=True)


def test_the_planted_shortcut_is_found(planted, tmp_path):
    records, *_ = read_audited(planted)
    assert {f.code: f.severity for f in source_findings(records)}["label-source"] == "severe"
    images, _ = measure(records, tmp_path)
    finding = label_finding(probe(images, "corners", [r.label for r in records]))
    assert (finding.code, finding.severity) == ("label-probe:corners", "severe")
    assert finding.figures["best_class"] == "CVP"
    assert finding.figures["best_class_auc_low"] > SEVERE_AUC
    assert "Label predictable from the corners alone: AUC" in finding.sentence


def examine(predictor: Predictor, records: list[Record], folder: Path) -> Examination:
    examination = Examination([predictor], {r.name: (0,) for r in records}, known=True)
    measure(records, folder, examination=examination)
    return examination


@pytest.fixture(scope="module")
def examined(honest, planted, tmp_path_factory) -> Examination:
    """The honest model on all phantoms; not to be changed."""
    return examine(honest, read_records(planted), tmp_path_factory.mktemp("arrays"))


def findings(examination: Examination, records: list[Record] | None = None) -> dict[str, Finding]:
    """The findings by code, with the predictions attributed to other records if they are given."""
    examination = copy(examination)
    examination.records = examination.records if records is None else records
    return {f.code: f for f in model_findings(examination)}


def test_a_model_that_reads_the_lungs_falls_to_chance_without_them(examined):
    found = findings(examined)["model-without-lungs"]
    scores = {row["view"]: row for row in found.figures["table"]}
    assert scores[WHOLE]["balanced_accuracy_low"] > 1 / 3 + 0.05
    assert scores[WITHOUT]["balanced_accuracy"] == pytest.approx(1 / 3, abs=0.02)
    assert scores[ONLY]["balanced_accuracy"] == pytest.approx(scores[WHOLE]["balanced_accuracy"], abs=0.15)
    assert found.severity == "note"
    assert "no better than chance, as it should be (150 images, CVP, NCP, NOR; chance is 0.33)" in found.sentence


@pytest.fixture(scope="module")
def misled(planted, tmp_path_factory) -> Path:
    """A run that learned the shortcut."""
    from cvrnet.training import TrainConfig
    from cvrnet.workflows.train import train

    still = {"rotation_p": 0.0, "shift_p": 0.0, "hflip_p": 0.0, "vflip_p": 0.0}
    config = TrainConfig(
        encoders=("test_resnet",),
        pretrained=False,
        img_size=64,
        epochs=5,
        lr=3e-3,
        val_fraction=0.4,
        amp="fp32",
        **still,
    )
    folder = tmp_path_factory.mktemp("misled") / "run"
    train(planted, folder, config, **PLAIN)
    return folder


def test_a_model_that_learned_the_shortcut_keeps_its_performance_without_lungs(cli, planted, misled, tmp_path):
    given = ("--model", misled, "--no-features", "-o", tmp_path / "audit", "--format", "json")
    status, out, _ = cli("audit", planted, *given)
    assert status == 1
    found = {f["code"]: f for f in json.loads(out)}
    finding = found["model-without-lungs"]
    scores = {row["view"]: row for row in finding["figures"]["table"]}
    with (misled / "split.csv").open() as file:
        validated = sum(row["fold"] == "val" for row in csv.DictReader(file))
    assert scores[WHOLE]["images"] == validated  # those it trained on are left out
    assert finding["severity"] == "severe"
    assert scores[WITHOUT]["auc_low"] > 0.55
    assert "so it uses something other than the lungs" in finding["sentence"]
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert "With the lungs hidden, the model reaches balanced accuracy" in page
    with (tmp_path / "audit" / "model-without-lungs.csv").open() as file:
        assert [row["view"] for row in csv.DictReader(file)] == [WHOLE, WITHOUT, ONLY]
    with (tmp_path / "audit" / "model-by-source.csv").open() as file:
        assert [row["source"] for row in csv.DictReader(file)] == ["all", "site-a", "site-b"]


def test_sources_that_a_model_reads_differently_are_named(examined):
    wrong = [
        replace(r, label=LABELS[LABELS.index(r.label) - 1]) if r.source == "site-b" else r for r in examined.records
    ]
    found = findings(examined, wrong)["model-sources"]
    rows = {row["source"]: row for row in found.figures["table"]}
    assert found.severity == "severe"
    assert rows["site-b"]["error"] > rows["site-a"]["error"] + 0.1
    assert rows["all"]["images"] == rows["site-a"]["images"] + rows["site-b"]["images"] == 150
    assert rows["site-a"]["calibration_gap"] == pytest.approx(
        rows["site-a"]["confidence"] - (1 - rows["site-a"]["error"])
    )
    assert "Report each source separately: site-b has more errors than site-a." in found.advice


@pytest.mark.both_precisions
def test_without_masks_one_sentence_says_so(honest, planted, tmp_path):
    records = [replace(r, lung_mask=None) for r in read_records(planted)[:20]]
    found = findings(examine(honest, records, tmp_path))["model-without-lungs"]
    assert (found.severity, found.figures) == ("note", {})
    assert "has a lung mask (column lung_mask)" in found.sentence


def test_a_broken_mask_is_a_finding_and_the_image_still_counts(honest, planted, tmp_path):
    (tmp_path / "mask.png").write_bytes(b"no image")
    records = read_records(planted)[:20]
    records[0] = replace(records[0], lung_mask=tmp_path / "mask.png")
    found = findings(examine(honest, records, tmp_path))
    assert found["model-lung-masks"].files == (records[0].name,)
    assert found["model-sources"].figures["table"][0]["images"] == 20


def test_a_label_that_the_model_does_not_know_is_refused_before_anything_is_read(honest):
    with pytest.raises(UserError, match="the model does not know the class TB; expected CVP, NCP, NOR"):
        audit([record("nowhere.png", "TB")], examination=Examination([honest], {}, known=True))

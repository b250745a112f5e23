"""Compare training on whole pictures, on masked pictures, and on pictures cropped to the lungs.

python benchmarks/lungs.py FOLDER SEGMENTER OUTPUT [whole|mask|crop ...]

FOLDER has manifest.csv and all.csv (docs/results.md says how to make them); SEGMENTER is a folder that `cvrnet lungs`
wrote. For each of the three ways (whole, mask, crop), the heads of cvrnet_lite are cross-validated on frozen encoders,
on the same folds. Then each source is left out once, the audit's probes predict label and source, and out-of-fold
Grad-CAM is measured on the images with given lung masks. The results are printed as JSON and stored in OUTPUT. If
OUTPUT already has the results of a way, they are only printed.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score

from cvrnet.audit.measurements import measure
from cvrnet.audit.probes import probes
from cvrnet.data import Record, read_records
from cvrnet.explain.measure_data import measure_data
from cvrnet.files import write_json
from cvrnet.lungs.attach import make_finder
from cvrnet.runs.layout import INDEPENDENT, PREDICTIONS, RUN, SUMMARY, fold_folders
from cvrnet.runs.read import read_json
from cvrnet.training import recipe
from cvrnet.workflows import cross_validate, leave_one_source_out

WAYS = ("whole", "mask", "crop")
PLAIN: dict[str, Any] = {"audit": False, "maps": False, "overwrite": True}
Row = dict[str, str]


def main() -> None:
    """Print a JSON object for each way of showing the pictures (whole, mask, crop)."""
    folder, segmenter, output = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    for way in sys.argv[4:] or WAYS:
        found = output / f"{way}.json"
        if not found.is_file():
            write_json(found, study(folder, segmenter, output / way, way))
        print(f"{way}\n{found.read_text(encoding='utf-8')}", flush=True)


def study(folder: Path, segmenter: str, output: Path, way: str) -> dict[str, Any]:
    """Train on pictures shown in one way (whole, mask or crop); return all scores."""
    data, outside = folder / "manifest.csv", folder / "all.csv"
    config = recipe("frozen", model="cvrnet_lite")
    if way != "whole":
        config = replace(config, lungs=way, segmenter=segmenter)
    cross_validate(data, output / "crossval", config, **PLAIN)
    scores = at_home(output / "crossval")
    print(f"{way}: {scores}", file=sys.stderr, flush=True)
    leave_one_source_out(outside, output / "away", config, **PLAIN)
    scores["left out"] = abroad(output / "away")
    print(f"{way}: {scores['left out']}", file=sys.stderr, flush=True)
    scores["grad-cam"] = looked_at(output, data)
    scores["probes"] = shortcuts(read_records(data), way, segmenter)
    return scores


def rows_of(run: Path, part: str) -> list[list[Row]]:
    """Return the predictions of each fold for the set ``test`` or ``independent``."""
    folds = []
    for folder in fold_folders(run).values():
        with (folder / PREDICTIONS).open(encoding="utf-8", newline="") as file:
            folds.append([row for row in csv.DictReader(file) if row["split"] == part])
    return folds


def at_home(run: Path) -> dict[str, Any]:
    """Return scores over the folds, within cidc and within nih, and on the sources that no fold contains."""
    tested = rows_of(run, "test")
    folds = [scored(rows) for rows in tested]
    scores: dict[str, Any] = {"lungs": read_json(run / RUN).get("lungs", {})}
    scores["folds"] = {name: [float(np.mean(v)), float(np.std(v, ddof=1))] for name, v in _columns(folds).items()}
    pooled = [row for rows in tested for row in rows]
    for source in ("cidc", "nih"):
        scores[source] = within([row for row in pooled if row["source"] == source])
    for source in ("figure1", "hannover"):
        values = [
            np.mean([r["prediction"] == "CVP" for r in rows if r["source"] == source and r["label"] == "CVP"])
            for rows in rows_of(run, INDEPENDENT)
        ]
        scores[source] = {"CVP": float(np.mean(values))}
    return scores


def scored(rows: Sequence[Row]) -> dict[str, float]:
    """Return accuracy, balanced accuracy and macro AUC of one fold."""
    y, p = [r["label"] for r in rows], [r["prediction"] for r in rows]
    classes = sorted({*y})
    probabilities = np.array([[float(r[f"prob_{name}"]) for name in classes] for r in rows])
    probabilities /= probabilities.sum(1, keepdims=True)
    auc = roc_auc_score(y, probabilities, multi_class="ovr", average="macro", labels=classes)
    accuracy = np.mean([a == b for a, b in zip(y, p, strict=True)])
    return {"accuracy": float(accuracy), "balanced": float(balanced_accuracy_score(y, p)), "auc": float(auc)}


def within(rows: Sequence[Row]) -> dict[str, Any]:
    """Return scores in one source: balanced accuracy with an interval by patient, recalls, AUC of CVP against NCP."""
    y, p = np.array([r["label"] for r in rows]), np.array([r["prediction"] for r in rows])
    patients = [r["patient_id"] or r["path"] for r in rows]
    labels = sorted({*y.tolist()})
    recalls = recall_score(y, p, labels=labels, average=None)
    members: dict[str, list[int]] = defaultdict(list)
    for number, patient in enumerate(patients):
        members[patient].append(number)
    rng, groups, drawn = np.random.default_rng(0), list(members.values()), []
    for _ in range(500):
        chosen = np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])
        if {*y[chosen].tolist()} == {*labels}:
            drawn.append(recall_score(y[chosen], p[chosen], labels=labels, average="macro"))
    found = {"balanced": float(np.mean(recalls)), "interval": np.percentile(drawn, [2.5, 97.5]).tolist()}
    found["recall"] = dict(zip(labels, recalls.tolist(), strict=True))
    two = np.isin(y, ["CVP", "NCP"])
    if {"CVP", "NCP"} <= {*labels}:
        share = [float(r["prob_CVP"]) / (float(r["prob_CVP"]) + float(r["prob_NCP"]) + 1e-12) for r in rows]
        found["auc CVP NCP"] = float(roc_auc_score(y[two] == "CVP", np.array(share)[two]))
    return found


def abroad(output: Path) -> dict[str, Any]:
    """Return the balanced accuracy on each source that was left out: mean and standard deviation over the folds.

    Only classes with at least ten patients in the source count.
    """
    scores = {}
    for run in sorted(path.parent for path in output.glob(f"*/{SUMMARY}")):
        values, predicted = [], rows_of(run, INDEPENDENT)
        for rows in predicted:
            patients = {
                label: {r["patient_id"] for r in rows if r["label"] == label} for label in {r["label"] for r in rows}
            }
            chosen = [r for r in rows if len(patients[r["label"]]) >= 10]
            labels = sorted({r["label"] for r in chosen})
            y, p = [r["label"] for r in chosen], [r["prediction"] for r in chosen]
            values.append(recall_score(y, p, labels=labels, average="macro", zero_division=0))
        scores[run.name] = [float(np.mean(values)), float(np.std(values, ddof=1))]
    return scores


def looked_at(output: Path, data: Path) -> dict[str, Any]:
    """Compare out-of-fold Grad-CAM maps with the masks that the manifest names."""
    summary, _ = measure_data(
        str(output / "crossval"), data, output / "maps", out_of_fold=True, batch_size=8, overwrite=True
    )
    rows = summary["all"]["localisation"]
    return {f"{r['mask']} {r['measure']}": {k: r[k] for k in ("images", "flat", "mean", "interval", "chance", "random")}
            for r in rows if r["part"] == "network"}  # fmt: skip


def shortcuts(records: Sequence[Record], way: str, segmenter: str) -> dict[str, Any]:
    """Run the audit's probes of the label, of the label within cidc, and of the source."""
    finder = None if way == "whole" else make_finder(records, way, None, segmenter, "")
    with tempfile.TemporaryDirectory() as folder:
        measured, _ = measure(records, Path(folder), 1, finder=finder)
        labels = [r.label for r in measured.records]
        inside = [r.label if r.source == "cidc" else "" for r in measured.records]
        targets = {"label": labels, "label within cidc": inside, "source": [r.source for r in measured.records]}
        return {
            name: {
                p.probe: [p.auc.value, p.auc.low, p.auc.high, p.balanced_accuracy.value] for p in probes(measured, t)
            }
            for name, t in targets.items()
        }


def _columns(rows: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


if __name__ == "__main__":
    main()

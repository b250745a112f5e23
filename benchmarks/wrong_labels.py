"""Measure how many labels that were changed on purpose the audit finds, on a data set with one label per image.

python benchmarks/wrong_labels.py manifest.csv --draws 100 120

In each draw, a tenth of the labels is changed at random, each to any other class. With --source, only labels of this
source are changed, and only to classes with enough patients in this source. The script prints the mean, lowest and
highest precision over the draws: among the k least probable labels (k: the number of changed labels), and among the
images that the audit names. Labels that were wrong before count as false alarms.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cvrnet.audit import read_audited
from cvrnet.audit.image_features import image_features
from cvrnet.audit.measurements import Measurements
from cvrnet.audit.wrong_labels import MIN_AUC, MIN_PATIENTS, judged_sources, wrong_label_findings
from cvrnet.data import Record

SHARE = 0.1  # share of the labels that is changed


def change_labels(records: Sequence[Record], draw: int) -> tuple[list[Record], np.ndarray]:
    """Return the n images with a tenth of their labels changed, and a mask (n,) of the changed labels."""
    rng = np.random.default_rng(draw)
    classes = sorted({record.label for record in records})
    labels = np.searchsorted(classes, [record.label for record in records])
    changed = np.zeros(len(records), bool)
    changed[rng.choice(len(records), round(SHARE * len(records)), replace=False)] = True
    labels[changed] += rng.integers(1, len(classes), changed.sum())
    names = [classes[i % len(classes)] for i in labels]
    return [replace(r, label=name) for r, name in zip(records, names, strict=True)], changed


def score(records: Sequence[Record], changed: np.ndarray, features: np.ndarray) -> dict[str, float]:
    """Return one draw's precision among the least probable labels, and the number and precision of the named images."""
    measured = Measurements(list(records), [], np.empty(0))
    probability, checked = np.full(len(records), np.inf), np.zeros(len(records), bool)
    for judged in judged_sources(measured, features):
        probability[judged.images] = judged.p[np.arange(len(judged.images)), judged.y]
        checked[judged.images] = judged.auc >= MIN_AUC
    order = np.argsort(probability, kind="stable")
    (finding,) = wrong_label_findings(measured, features)
    named = np.isin([r.name for r in records], [row["path"] for row in finding.figures.get("table", [])])
    scores = {"all images": changed[order[: changed.sum()]].mean()}
    if checked.any():
        scores["sources that the audit checks"] = changed[order[checked[order]][: changed[checked].sum()]].mean()
    scores["number named"] = named.sum()
    if named.any():
        scores["named"] = changed[named].mean()
    return scores


def main() -> None:
    """Change labels, look for them, and print the precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--source", help="only the images of this source")
    parser.add_argument("--draws", nargs=2, type=int, default=(100, 120), help="first seed, and last seed plus 1")
    options = parser.parse_args()
    records = read_audited(options.data)[0]
    features = image_features(records)
    if isinstance(features, str):
        raise SystemExit(features)
    if options.source:
        here = [i for i, r in enumerate(records) if r.source == options.source]
        records = [records[i] for i in here]
        patients = {label: {r.patient_id for r in records if r.label == label} for label in {r.label for r in records}}
        enough = [i for i, r in enumerate(records) if len(patients[r.label]) >= MIN_PATIENTS]
        features, records = features[here][enough], [records[i] for i in enough]
    found = defaultdict(list)
    for draw in range(*options.draws):
        for what, value in score(*change_labels(records, draw), features).items():
            found[what].append(value)
    for what, values in found.items():
        print(f"{what:30} {np.mean(values):6.3f} ({min(values):.3f}-{max(values):.3f}; {len(values)} draws)")


if __name__ == "__main__":
    main()

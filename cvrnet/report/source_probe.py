"""Measure how well each head's input predicts the source of an image, among images of one label.

The network can use the source as a shortcut to the label if the source can be predicted well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cvrnet.data import to_batch
from cvrnet.data.splits import patient_key
from cvrnet.errors import UserError
from cvrnet.files import write_sheet
from cvrnet.inference import Predictor
from cvrnet.inference.head_logits import HeadLogits, averages_probabilities
from cvrnet.inference.prefetch import read_ahead
from cvrnet.metrics.bootstrap import weighted_scores
from cvrnet.network import CVRNet
from cvrnet.report.page import image_path
from cvrnet.report.results import Results, read_results
from cvrnet.runs.layout import SOURCE_PROBE, fold_name
from cvrnet.scoring import MIN_PATIENTS

MAX_IMAGES = 400  # about this many in all (over all labels and sources), so that the cost does not grow with the data
BATCH = 16
FOLDS = 5
RESAMPLES = 500

Groups = dict[str, dict[str, list[Path]]]  # label -> source -> images, one for each patient


def write_source_probe(folder: Path, predictor: Predictor | None = None) -> str:
    """Measure how well the inputs of a model's heads predict the source, and write tables/source_probe.csv.

    ``folder`` is a run or an evaluation, whose report shows the table. The model is that of ``predictor`` or, without a
    ``predictor``, that of the run (in a cross-validation, of fold 1). Nothing is written if an image may have several
    findings, if the model does not average the probabilities of several heads, or if no label has two sources with at
    least `MIN_PATIENTS` patients each.

    Returns:
        A sentence that says why the model cannot be probed, for example because the file of its weights is damaged; ""
        if there is no such problem.
    """
    results = read_results(folder)
    groups = {} if results.multilabel else _groups(results)
    if not groups or not any("heads" in scores for scores in results.sets.values()):
        return ""
    first = folder / fold_name(1) if results.kind == "crossval" else folder
    try:
        predictor = predictor or Predictor.from_pretrained(first, any_body_part=True)  # the run accepted these files
        model = predictor.models[0]
        if isinstance(model, CVRNet) and averages_probabilities(model) and (rows := probe_rows(predictor, groups)):
            write_sheet(folder / SOURCE_PROBE, rows)
    except UserError as error:
        (folder / SOURCE_PROBE).unlink(missing_ok=True)  # the file belongs to earlier weights
        return f"No source probe: {str(error).replace(str(folder), folder.absolute().name)}."
    return ""


def probe_rows(predictor: Predictor, groups: Groups) -> list[dict[str, Any]]:
    """Return a row for each label and head and, if there are several labels, each head's mean over the labels.

    ``auc`` is the cross-validated AUC of a logistic regression on the head's standardised input: one source against
    the others, as the mean over the sources. Its 95 % interval comes from resampling the patients of each label.
    """
    every = [path for sources in groups.values() for paths in sources.values() for path in paths]
    inputs = _head_inputs(predictor, every)
    rows, resampled = [], []
    for label, sources in groups.items():
        there = [(path, y) for y, paths in enumerate(sources.values()) for path in paths if path in inputs]
        y = np.array([number for _, number in there], dtype=np.int64)
        if np.bincount(y, minlength=len(sources)).min() < FOLDS:  # too many images could not be read
            continue
        drawn = np.random.default_rng(0).multinomial(len(y), np.full(len(y), 1 / len(y)), RESAMPLES)
        weights = np.concatenate([np.ones((1, len(y))), drawn.astype(np.float64)])
        by_head = zip(*(inputs[path] for path, _ in there), strict=True)
        aucs = np.array([_aucs(np.stack(x), y, list(sources), weights) for x in by_head])  # (heads, 1 + RESAMPLES)
        rows += _rows(aucs, label, list(sources), len(y))
        resampled.append(aucs)
    if len(resampled) > 1:
        names = sorted({source for sources in groups.values() for source in sources})
        rows += _rows(np.mean(resampled, axis=0), "", names, len(inputs))
    return rows


def _groups(results: Results) -> Groups:
    """Choose the images to probe: one per patient and label, from the sources with enough patients of the label."""
    p = results.predictions
    rows: Sequence[Mapping[str, str]] = results.split or [
        {"path": name, "label": p.classes[label], "source": source, "patient_id": patient}
        for name, label, source, patient in zip(p.names, p.labels, p.sources, p.patients, strict=True)
    ]
    one: dict[tuple[str, str], Mapping[str, str]] = {}  # label and patient -> image
    for row in rows:
        if row["source"]:
            one.setdefault((row["label"], patient_key(row["patient_id"], row["path"])), row)
    found: Groups = defaultdict(lambda: defaultdict(list))
    for row in one.values():
        found[row["label"]][row["source"]].append(image_path(results.run, row["path"]))
    enough = {
        label: {source: paths for source, paths in sorted(sources.items()) if len(paths) >= MIN_PATIENTS}
        for label, sources in sorted(found.items())
    }
    groups = {label: sources for label, sources in enough.items() if len(sources) > 1}
    most = max(MIN_PATIENTS, MAX_IMAGES // max(1, sum(map(len, groups.values()))))
    rng = np.random.default_rng(0)
    return {
        label: {source: [paths[i] for i in rng.permutation(len(paths))[:most]] for source, paths in sources.items()}
        for label, sources in groups.items()
    }


def _head_inputs(predictor: Predictor, paths: Sequence[Path]) -> dict[Path, list[NDArray[np.float32]]]:
    """Map the path of each readable image to the input of each head of the predictor's first model."""
    network = HeadLogits(predictor.models[0], predictor.precision)
    read = read_ahead(paths, predictor.preprocessing, ahead=2 * BATCH)
    images = ((path, image) for path, image in read if not isinstance(image, str))
    inputs: dict[Path, list[NDArray[np.float32]]] = {}
    while batch := list(islice(images, BATCH)):
        x = predictor.preprocessing.normalize(to_batch([image for _, image in batch]).to(predictor.device))
        with torch.inference_mode():
            pooled = network.head_inputs(x.contiguous(memory_format=torch.channels_last))
        for (path, _), *vectors in zip(batch, *(vector.cpu().numpy() for vector in pooled), strict=True):
            inputs[path] = vectors
    return inputs


def _aucs(
    x: NDArray[np.float32], y: NDArray[np.int64], sources: Sequence[str], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Predict the source ``y`` (N,) from ``x`` (N, D) in cross-validation, and return the AUC of the predictions, (B,).

    ``weights`` (B, N) has B rows of weights of the images; there is an AUC for each row.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    p = cross_val_predict(probe, x, y, cv=folds, method="predict_proba")
    aucs: NDArray[np.float64] = weighted_scores(y, p, sources, weights)["macro"]["roc_auc"]
    return aucs


def _rows(aucs: NDArray[np.float64], label: str, sources: Sequence[str], images: int) -> list[dict[str, Any]]:
    rows = []
    for i, (value, *resamples) in enumerate(aucs, start=1):
        low, high = np.nanpercentile(resamples, [2.5, 97.5])
        row = {"head": f"P{i}", "label": label, "sources": "|".join(sources), "images": images}
        rows.append({**row, "auc": float(value), "low": float(low), "high": float(high)})
    return rows

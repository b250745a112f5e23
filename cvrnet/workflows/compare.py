"""Compare trained models on one set of labelled images (extra ``train``)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cvrnet.data import DataError
from cvrnet.data.data_set import DataPath, DataSet
from cvrnet.errors import UserError
from cvrnet.figures import plot_paired, save_figure
from cvrnet.files import slug, write_sheet, write_text
from cvrnet.html import figure_picture, render
from cvrnet.inference import Predictor
from cvrnet.metrics import holm
from cvrnet.metrics.paired_models import compare_accuracy, compare_auc, compare_macro_auc, compare_mean_auc
from cvrnet.report.headline import data_name, seen_sentence, without_folders
from cvrnet.report.paired import paired_table
from cvrnet.runs.finding_predictions import FindingTable
from cvrnet.runs.folder import claim_folder, hash_records, open_run_folder, versions
from cvrnet.runs.layout import COMPARE, FIGURES, REPORT, TABLES
from cvrnet.runs.predictions import PredictionTable
from cvrnet.workflows.evaluate import check_prevalences, read_for, score_records
from cvrnet.workflows.job import Callbacks, audit_run, finish_report, share_audit
from cvrnet.workflows.studies import one_picture_each

Row = dict[str, Any]


def compare(
    models: Sequence[str],
    data: DataPath,
    output: str | Path,
    *,
    folds: Sequence[int] = (),
    batch_size: int = 8,
    device: str = "auto",
    amp: str = "auto",
    any_body_part: bool = False,
    prevalences: Sequence[float] = (),
    audit: bool = True,
    maps: bool = True,
    overwrite: bool = False,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Score two or more models on the same images, and test whether they differ from the first.

    ``OUTPUT/NAME`` is the evaluation of each model (see `evaluate`, which has the other arguments); ``OUTPUT`` gets
    run.json, tables/paired.csv, figures/paired.png and report.html. The tests are those of
    `cvrnet.metrics.paired_models`, on the images that all models could read, with p adjusted by Holm's method.

    Returns:
        The content of run.json and, under the key ``paired``, the rows of tables/paired.csv.

    Raises:
        UserError: Fewer than two models, one of them twice, models with different classes, or what `evaluate` raises.
    """
    output, callbacks = Path(output), callbacks or Callbacks()
    names = _folder_names(models)
    check_prevalences(prevalences)
    with open_run_folder(output, COMPARE, overwrite=overwrite) as place:
        first = _first_of_alike(models, folds)
        records = read_for(first, data, callbacks.say)
        place.start()
        run = {
            "kind": COMPARE,
            "models": dict(zip(names, models, strict=True)),
            **DataSet.of(data).for_run(),
            "data_sha256": hash_records(records),
            "versions": versions("cvrnet", "torch", "timm", "numpy", "pillow"),
        }
        claim_folder(place.folder, run)
        if audit:
            audit_run(place.folder, data, one_picture_each(records), callbacks, any_body_part, output)
        tables: list[Any] = []
        evaluations = []
        for name, model in zip(names, models, strict=True):
            predictor = Predictor.from_pretrained(model, device, amp, folds=folds, any_body_part=any_body_part)
            folder = place.folder / name
            answers, evaluation = score_records(
                model, predictor, data, records, folder, batch_size, prevalences, callbacks
            )
            share_audit(place.folder, folder)
            finish_report(folder, maps, predictor)
            tables.append(answers)
            evaluations.append(evaluation)
        pair: Any = paired_finding_rows if first.task == "multilabel" else paired_rows
        rows = pair(names, tables)
        _write(place.folder, run, rows, evaluations)
    return {**run, "paired": rows}


def _folder_names(models: Sequence[str]) -> list[str]:
    if len(models) < 2:
        raise UserError("a comparison needs two models or more")
    places = [os.path.realpath(model) if os.path.exists(model) else model for model in models]
    if len({*places}) < len(places):
        twice = next(m for m, place in zip(models, places, strict=True) if places.count(place) > 1)
        raise UserError(f"{twice} is given twice; expected different models")
    names = [slug(Path(str(model)).name) or "model" for model in models]
    return [name if names.count(name) == 1 else f"{i}-{name}" for i, name in enumerate(names, start=1)]


def _first_of_alike(models: Sequence[str], folds: Sequence[int]) -> Predictor:
    """The first model. Each is loaded once, before anything is predicted; models with other classes are refused."""
    first = Predictor.from_pretrained(models[0], folds=folds)
    for model in models[1:]:
        predictor = Predictor.from_pretrained(model, folds=folds)
        if predictor.task != first.task:
            raise UserError(f"of {models[0]} and {model}, only one is a model of findings; expected two of a kind")
        if predictor.unit != first.unit:
            raise UserError(
                f"{models[0]} answers for one {first.unit}, {model} for one {predictor.unit}; expected the same"
            )
        if sorted(predictor.classes) != sorted(first.classes):
            raise UserError(
                f"{model} has the classes {', '.join(sorted(predictor.classes))}, "
                f"{models[0]} has {', '.join(sorted(first.classes))}; expected the same"
            )
    return first


def paired_rows(names: Sequence[str], tables: Sequence[PredictionTable]) -> list[Row]:
    """Each model against the first: macro AUC, accuracy, and the AUC of each class, on the images that all could read.

    The rows have ``score``, ``class``, ``model``, ``reference``, ``images``, ``patients``, and the keys of
    `cvrnet.metrics.paired_models.compare_auc` (``one`` is the model, ``other`` the first), and ``p_holm``.
    """
    reference, *others = _of_common_images([table.with_classes(tables[0].classes) for table in tables])
    labels, groups = reference.labels, reference.groups
    patients = np.array(groups)
    size = {"reference": names[0], "images": len(labels), "patients": len({*groups})}
    rows: list[Row] = []
    for name, table in zip(names[1:], others, strict=True):
        row: Row = {"model": name, **size}
        right, other = table.guesses == labels, reference.guesses == labels
        rows.append({"score": "accuracy", "class": "", **row, **compare_accuracy(right, other, groups)})
        p, q = table.probabilities, reference.probabilities
        sides = [[len({*patients[side].tolist()}) for side in (labels == k, labels != k)] for k in range(len(p[0]))]
        # A class of one patient has an AUC, and no variance: neither its row nor the mean can be tested.
        present = [counts for counts in sides if min(counts)]
        if present and min(map(min, present)) > 1:
            rows.append({"score": "auc_macro", "class": "", **row, **compare_macro_auc(labels, p, q, groups)})
        for k, class_name in enumerate(table.classes):
            truth = labels == k
            if min(sides[k]) > 1:
                test = compare_auc(truth, p[:, k], q[:, k], groups)
                rows.append({"score": "auc", "class": class_name, **row, **test})
    return _adjusted(rows)


def paired_finding_rows(names: Sequence[str], tables: Sequence[FindingTable]) -> list[Row]:
    """The same for models of findings: the mean AUC, and the AUC of each finding on the images of which it is known.

    A finding that fewer than two patients have, or lack, has no row, and then there is none for the mean.
    """
    reference, *others = _of_common_images([table.with_findings(tables[0].findings) for table in tables])
    patients = np.array(reference.groups)
    size = {"reference": names[0], "images": len(patients), "patients": len({*reference.groups})}
    sides = [[len({*patients[column == value].tolist()}) for value in (1, 0)] for column in reference.truth.T]
    rows: list[Row] = []
    for name, table in zip(names[1:], others, strict=True):
        row: Row = {"model": name, **size}
        p, q = table.probabilities, reference.probabilities
        scored = [counts for counts in sides if min(counts)]
        if scored and min(map(min, scored)) > 1:
            test = compare_mean_auc(reference.truth, p, q, reference.groups)
            rows.append({"score": "auc_macro", "class": "", **row, **test})
        for k, finding in enumerate(reference.findings):
            known = ~np.isnan(reference.truth[:, k])
            if min(sides[k]) > 1:
                truth = reference.truth[known, k] == 1
                test = compare_auc(truth, p[known, k], q[known, k], patients[known].tolist())
                rows.append({"score": "auc", "class": finding, **row, **test})
    return _adjusted(rows)


def _of_common_images(tables: Sequence[Any]) -> list[Any]:
    """The tables' rows of the images that all models could read."""
    common = set(tables[0].names).intersection(*(table.names for table in tables[1:]))
    return [table.rows([i for i, name in enumerate(table.names) if name in common]) for table in tables]


def _adjusted(rows: list[Row]) -> list[Row]:
    """The rows with their p-values adjusted for the number of models."""
    for key in {(row["score"], row["class"]) for row in rows}:
        mine = [row for row in rows if (row["score"], row["class"]) == key]
        for row, p_holm in zip(mine, holm([row["p"] for row in mine]), strict=True):
            row["p_holm"] = p_holm
    return rows


def _write(folder: Path, run: Mapping[str, Any], rows: Sequence[Row], evaluations: Sequence[Mapping[str, Any]]) -> None:
    """Write the table, its figure and the page."""
    if not rows:
        raise DataError(["no image could be read by all models, or no class or finding can be compared"], run["data"])
    write_sheet(folder / TABLES / "paired.csv", rows)
    figure = folder / FIGURES / "paired.png"
    save_figure(plot_paired(rows), figure)
    page = render(
        "compare.html.jinja",
        models={name: without_folders(model) for name, model in run["models"].items()},
        data=data_name(run),
        scores=[evaluation["metrics"]["test"] for evaluation in evaluations],
        seen=[seen_sentence(e["seen_images"]) if e["seen_images"] else "" for e in evaluations],
        known=[evaluation["independent_sources"] is not None for evaluation in evaluations],
        table=paired_table(rows),
        reference=rows[0]["reference"],
        images=rows[0]["images"],
        patients=rows[0]["patients"],
        several=rows[0]["patients"] < rows[0]["images"],
        figure=figure_picture(figure.read_bytes()),
    )
    write_text(folder / REPORT, page)

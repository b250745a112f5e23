"""Compare trained models on one set of labelled images (extra ``train``)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvrnet.data import DataError
from cvrnet.data.data_set import DataPath, DataSet
from cvrnet.errors import UserError
from cvrnet.figures import plot_paired, save_figure
from cvrnet.files import slug, write_sheet, write_text
from cvrnet.html import figure_picture, render
from cvrnet.inference import Predictor
from cvrnet.report.headline import data_name, seen_sentence, without_folders
from cvrnet.report.paired import Row, paired_rows, paired_table
from cvrnet.runs.folder import claim_folder, hash_records, open_run_folder, versions
from cvrnet.runs.layout import COMPARE, FIGURES, REPORT, TABLES
from cvrnet.runs.predictions import AnyTable
from cvrnet.workflows.callbacks import Callbacks
from cvrnet.workflows.evaluate import check_prevalences, read_scored, score_records
from cvrnet.workflows.outcomes import outcome_of
from cvrnet.workflows.pages import audit_run, finish_report, share_audit
from cvrnet.workflows.studies import one_picture_each


def compare(
    models: Sequence[str],
    data: DataPath,
    output: str | Path,
    *,
    folds: Sequence[int] = (),
    batch_size: int = 8,
    device: str = "auto",
    amp: str = "auto",
    backend: str | None = None,
    any_body_part: bool = False,
    prevalences: Sequence[float] = (),
    audit: bool = True,
    maps: bool = True,
    overwrite: bool = False,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Score two or more models on the same images, and test whether each further model differs from the first.

    Each model's evaluation is in ``OUTPUT/NAME``, where ``NAME`` is the last part of the model's path. ``OUTPUT``
    itself gets run.json, tables/paired.csv, figures/paired.png, report.html and audit.html. The tests
    (`cvrnet.metrics.paired_models`) use the images that all models could read. Their p-values are adjusted by Holm's
    method. Other arguments: see `evaluate`.

    Returns:
        The content of run.json and, under the key ``paired``, the rows of tables/paired.csv.

    Raises:
        UserError: There are fewer than two models, a model is given twice, or the models differ in task, event, unit or
            classes.
        DataError: No image was read by all models, or no finding has enough patients for a test.
        DataError, UserError: See `evaluate`.
    """
    output, callbacks = Path(output), callbacks or Callbacks()
    names = _folder_names(models)
    check_prevalences(prevalences)
    with open_run_folder(output, COMPARE, overwrite=overwrite) as place:
        first = _first_of_alike(models, folds)
        records, about = read_scored(first, data, callbacks.say)
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
            findings = first.classes if first.task == "multilabel" else ()
            pictures = one_picture_each(records)
            audit_run(place.folder, data, pictures, callbacks, any_body_part, output, findings)
        tables: list[AnyTable] = []
        evaluations = []
        for name, model in zip(names, models, strict=True):
            predictor = Predictor.from_pretrained(
                model, device, amp, folds=folds, any_body_part=any_body_part, backend=backend, images=len(records)
            )
            folder = place.folder / name
            answers, evaluation = score_records(
                model, predictor, data, records, folder, batch_size, prevalences, callbacks, about
            )
            share_audit(place.folder, folder)
            finish_report(folder, maps, predictor)
            tables.append(answers)
            evaluations.append(evaluation)
        rows = paired_rows(dict(zip(names, tables, strict=True)))
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
    """Load each model once, before any prediction; return the first.

    Raise UserError if the models differ in task, event, unit or classes.
    """
    first = Predictor.from_pretrained(models[0], folds=folds)
    for model in models[1:]:
        predictor = Predictor.from_pretrained(model, folds=folds)
        if predictor.task != first.task:
            raise UserError(f"only one of {models[0]} and {model} is a model of findings; expected models of one kind")
        if outcome_of(predictor) != outcome_of(first):
            raise UserError(f"{models[0]} and {model} predict different events; expected the same outcome and horizon")
        if predictor.unit != first.unit:
            raise UserError(
                f"{models[0]} predicts per {first.unit}, but {model} predicts per {predictor.unit}; expected the same "
                "unit"
            )
        if sorted(predictor.classes) != sorted(first.classes):
            raise UserError(
                f"{model} has the classes {', '.join(sorted(predictor.classes))}, "
                f"but {models[0]} has {', '.join(sorted(first.classes))}; expected the same classes"
            )
    return first


def _write(folder: Path, run: Mapping[str, Any], rows: Sequence[Row], evaluations: Sequence[Mapping[str, Any]]) -> None:
    """Write tables/paired.csv, figures/paired.png and report.html; raise DataError if there are no rows."""
    if not rows:
        raise DataError(
            [
                "no image could be read by all models, or no finding is present in at least 2 patients and absent in "
                "at least 2"
            ],
            run["data"],
        )
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

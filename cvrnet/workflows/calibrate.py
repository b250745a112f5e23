"""Calibrate a trained model with a few images of another hospital (extra ``train``)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cvrnet.data import DataError, Record, check_classes, read_records
from cvrnet.data.data_set import DataPath
from cvrnet.data.splits import make_folds, patient_keys
from cvrnet.errors import UserError
from cvrnet.files import write_csv
from cvrnet.formatting import count
from cvrnet.heads.novelty import NoveltyHead
from cvrnet.inference import Prediction, Predictor
from cvrnet.metrics.decisions import Decisions
from cvrnet.metrics.novelty import is_marked, unlike
from cvrnet.metrics.operating_points import threshold_warnings
from cvrnet.metrics.recalibration import (
    MIN_IMAGES,
    MIN_PATIENTS,
    Recalibration,
    fit_prior,
    fit_recalibration,
    free_biases,
)
from cvrnet.report import write_report
from cvrnet.report.before_after import before_after_section
from cvrnet.report.results import read_results
from cvrnet.report.unlike_training import unlike_training_section
from cvrnet.runs.checkpoint import find_checkpoints, refuse_bags
from cvrnet.runs.decisions import KEY, save_decisions
from cvrnet.runs.folder import claim_folder, open_run_folder
from cvrnet.runs.held_out import trained_on
from cvrnet.runs.layout import CONFIG, RUN, SEGMENTER, SPLIT, TABLES, WEIGHTS, fold_name, fold_number
from cvrnet.runs.novelty import save_novelty
from cvrnet.runs.predictions import PredictionTable
from cvrnet.runs.read import read_run
from cvrnet.runs.split_table import split_row
from cvrnet.workflows.before_after import (
    Local,
    before_after_rows,
    choose,
    cross_validated,
    fit_quantiles,
    judge,
    verdict,
)
from cvrnet.workflows.callbacks import Callbacks
from cvrnet.workflows.evaluate import describe_evaluation, predict_all, refuse_findings, write_evaluation
from cvrnet.workflows.outcomes import refuse_outcome

KIND = "calibrate"
N_FOLDS = 5
Table = NDArray[np.float64]


def calibrate(
    model: str,
    data: DataPath,
    output: str | Path,
    *,
    unlabelled: bool = False,
    folds: Sequence[int] = (),
    batch_size: int = 8,
    device: str = "auto",
    amp: str = "auto",
    any_body_part: bool = False,
    overwrite: bool = False,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Calibrate a model on images of another hospital; the result is an ordinary model that every command accepts.

    With labelled images, this function fits one temperature for all classes and a bias for each class
    (`cvrnet.metrics.recalibration`), and chooses new thresholds, prediction sets and limits of uncertainty
    (`cvrnet.metrics.abstention`). The scores after the calibration are cross-validated by patient. With
    ``unlabelled`` images, it estimates the share of each class and corrects the probabilities for the shares
    (`fit_prior`); the calibrated model has no thresholds, because these need labels. In both cases, a model with a
    novelty head then marks images that are less like the training images than 95 % of the images in ``data`` are.

    ``model`` is as in `cvrnet.workflows.evaluate`, but not an ONNX file. The weights do not change: the calibration is
    in config.json, and `Predictor` applies it to the probabilities averaged over heads and folds. So the folds of a run
    are calibrated together, as an ensemble.

    The folder ``output`` gets run.json, the model (several models: fold-1/ and so on), split.csv if the training images
    of the model are known, and tables/before_after.csv. With labelled images, it also gets metrics.json,
    predictions.csv, figures/ and report.html. Other arguments: see `cvrnet.workflows`.

    Returns:
        A dictionary: ``rows`` (of tables/before_after.csv), ``sentences`` (the verdict and warnings), and
        ``calibration`` (as in run.json).

    Raises:
        DataError: Images cannot be read, or rows of the manifest are wrong.
        UserError: There are too few images, all images are of one class, or a class has only one patient. Or the model
            lacks a class of the data, was trained on an image or its patient, or is calibrated already. Or the model
            predicts findings or an event, or classifies several images together. Or the folder has files that may not
            be replaced.
    """
    output, callbacks = Path(output), callbacks or Callbacks()
    about = _about(model)
    with open_run_folder(output, KIND, overwrite=overwrite) as place:
        predictor = Predictor.from_pretrained(model, device, amp, folds=folds, any_body_part=any_body_part)
        refuse_findings(predictor, "calibration")
        refuse_bags(predictor.unit, "calibration")
        refuse_outcome(predictor.models[0], "calibration")
        records = read_records(data, labelled=not unlabelled, min_classes=1, say=callbacks.say)
        known = _refuse_images(model, records, predictor.classes, labelled=not unlabelled)
        if known is None:
            callbacks.say("The model's training images are not known: make sure that these images are new to the model")
        predictor.use_masks(records)
        predictions = predict_all(predictor, records, batch_size, callbacks.stage("Predicting"))
        if problems := [prediction.error for prediction in predictions if prediction.error]:
            raise DataError(problems, records[0].path.parent)
        found = _correct_prior(predictions, predictor, about) if unlabelled else _fit(records, predictions, predictor)
        calibration = _describe(records, predictor.classes, found.fitted, unlabelled)
        run = {**about, "kind": KIND, "classes": predictor.classes, "model": model, "calibration": calibration}
        if found.table is not None:
            run |= {**describe_evaluation(model, predictor, data, records, found.table), "kind": KIND}
            run.pop(KEY)  # these are the decisions from before the calibration
        place.start()
        claim_folder(place.folder, run)
        _write(place.folder, found, find_checkpoints(model, folds), predictor.engine.novelty)
        if known is not None:
            write_csv(place.folder / SPLIT, [*known, *(split_row(r, "calibration") for r in records)])
    return {"rows": found.rows, "sentences": found.sentences, "calibration": calibration}


@dataclass(frozen=True)
class _Calibration:
    """The result of a calibration."""

    fitted: Recalibration
    rows: list[dict[str, Any]]  #: the rows of tables/before_after.csv
    sentences: list[str]  #: the verdict (better or worse) and warnings
    quantiles: list[Table]  #: quantiles of the distances from each fold's training images; [] without a novelty head
    decisions: Decisions = field(default_factory=Decisions)  #: thresholds and so on for the new probabilities
    table: PredictionTable | None = None  #: predictions of the cross-validation; None without labels


def _write(folder: Path, found: _Calibration, models: Sequence[Path], novelty: Sequence[NoveltyHead]) -> None:
    decisions = replace(found.decisions, calibration=found.fitted)
    gates = [head.with_quantiles(torch.from_numpy(q)) for head, q in zip(novelty, found.quantiles, strict=True)]
    for number, model in enumerate(models, start=1):
        place = folder if len(models) == 1 else folder / fold_name(fold_number(model.name) or number)
        place.mkdir(exist_ok=True)
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(model / name, place / name)
        if (model / SEGMENTER).is_file():
            shutil.copyfile(model / SEGMENTER, place / SEGMENTER)
        save_decisions(place, decisions)
        if gates:
            save_novelty(place, gates[number - 1])
    if found.table is None:
        write_csv(folder / TABLES / "before_after.csv", found.rows)
    else:
        write_evaluation(folder, {"test": found.table})
        unusual = unlike_training_section(read_results(folder))
        write_report(folder, [before_after_section(found.rows, found.sentences), *([unusual] if unusual else [])])


def _about(model: str) -> dict[str, Any]:
    """Return a local model's run.json, or {} if there is none; refuse ONNX files and calibrated models (UserError)."""
    if str(model).lower().endswith(".onnx"):
        raise UserError(f"{model} is an ONNX file; calibrate the model that it was exported from, and export again")
    folder = Path(str(model).removeprefix("local-dir:"))
    if fold_number(folder.resolve().name) is not None and not (folder / RUN).is_file():
        folder = folder.resolve().parent
    about = read_run(folder) if (folder / RUN).is_file() else {}
    if about.get("kind") == KIND:
        raise UserError(f"{model} is calibrated already; expected the original model: {about.get('model')}")
    return about


def _refuse_images(
    model: str, records: Sequence[Record], classes: Sequence[str], labelled: bool
) -> Sequence[Mapping[str, Any]] | None:
    """Return the rows of split.csv about the model's training and validation images; None without a split.csv.

    Raises:
        UserError: The model was trained on some of ``records``, or ``records`` are too few or of one class.
    """
    if labelled:
        check_classes((r.label for r in records), classes)
        if len(present := {r.label for r in records}) == 1:
            raise UserError(
                f"all {len(records):,} images are {present.pop()}: temperature and biases need two classes; add "
                "images of another class, or measure the model on these images with cvrnet evaluate"
            )
    if len(records) < MIN_IMAGES:
        raise UserError(f"too few images to calibrate a model ({len(records)}); expected at least {MIN_IMAGES}")
    known = trained_on(model)
    if known is None:
        return None
    if seen := known.found(records):
        who = f" (patient {seen[0].patient_id})" if seen[0].patient_id else ""
        raise UserError(
            f"the model was trained or validated on {len(seen):,} of the {len(records):,} images, such as "
            f"{seen[0].name}{who}, or on other images of their patients; remove these {len(seen):,} from the data"
        )
    return known.rows


def _fit(records: Sequence[Record], predictions: Sequence[Prediction], predictor: Predictor) -> _Calibration:
    """Calibrate on all images, and cross-validate this calibration for the table, the verdict and the predictions."""
    classes, groups = predictor.classes, patient_keys(records)
    answers = np.array([prediction.probabilities for prediction in predictions])
    distances = np.array([prediction.distances for prediction in predictions])
    local = Local(classes, np.array([classes.index(r.label) for r in records]), groups, answers, distances)
    patients = {name: len({g for g, r in zip(groups, records, strict=True) if r.label == name}) for name in classes}
    if alone := [name for name, number in patients.items() if number == 1]:
        raise UserError(f"all images of {alone[0]} are of one patient; add another patient, or leave the class out")
    folds = make_folds(records, min(N_FOLDS, *filter(None, patients.values())))
    before = judge(predictor.decisions, predictor.quantiles, answers, distances, classes)
    after = cross_validated(local, folds, predictor.decisions)
    rows = before_after_rows(local, before, after)
    fitted = fit_recalibration(local.labels, answers, groups)
    decisions = choose(local, fitted(answers), predictor.decisions)
    free = {classes[k] for k in free_biases(local.labels.tolist(), groups, len(classes))}
    few = [
        f"{name} has {count(number, 'patient')}, fewer than {MIN_PATIENTS}: its bias stays 0"
        if number
        else f"{name} has no image: its bias stays 0, and it gets no threshold"
        for name, number in patients.items()
        if name not in free and number < MIN_PATIENTS
    ]
    away = after.unlike if predictor.has_gate else None
    table = PredictionTable.from_records(records, classes, after.probabilities, unlike=away)
    sentences = [verdict(rows), *few, *threshold_warnings(decisions.operating_points)]
    return _Calibration(fitted, rows, sentences, fit_quantiles(distances), decisions, table)


def _correct_prior(predictions: Sequence[Prediction], predictor: Predictor, about: Mapping[str, Any]) -> _Calibration:
    """Correct the probabilities for the shares of the classes.

    A training with class weights multiplies the loss of a class by the inverse of its share, so the probabilities are
    those of a hospital where all classes are equally frequent. A model without run.json is treated in this way, too.

    The shares are estimated from the probabilities of every head, not from the mean over the heads. The mean is less
    certain than each head, and an estimate from the mean tends to one class: on the source figure1 (docs/decisions.md),
    it gave the shares 1, 0 and 0 instead of 0.91, 0.08 and 0.02.
    """
    classes = predictor.classes
    weighted = about.get("config", {}).get("class_weights", True)
    counts = np.array([1.0 if weighted else about["images"][name] for name in classes])
    trained = counts / counts.sum()
    answers = np.array([prediction.probabilities for prediction in predictions])
    heads = [p.probabilities if p.heads is None else p.heads for p in predictions]
    fitted, prior = fit_prior(np.array(heads).reshape(-1, len(classes)), trained.tolist())
    after = fitted(answers)
    rows = [
        {
            "class": name,
            "share_assumed": float(trained[k]),
            "share_estimated": prior[k],
            "answers_before": int((answers.argmax(1) == k).sum()),
            "answers_after": int((after.argmax(1) == k).sum()),
        }
        for k, name in enumerate(classes)
    ]
    sentences = [
        "without labels, nothing could be checked, and the probabilities may have become worse: the correction is "
        "valid only if these images differ from the training images in the shares of the classes, but not, for "
        "example, in the kind of patients or the machine",
        "the result has no thresholds, prediction sets or limits of uncertainty: these need labelled images",
    ]
    distances = np.array([prediction.distances for prediction in predictions])
    if predictor.has_gate:
        marked = int(is_marked(unlike(distances, predictor.quantiles)).sum())
        sentences.append(
            f"the model marked {marked:,} of the {len(distances):,} images as unusual; the calibrated model marks "
            f"images that are less like the training images than 95 % of these {len(distances):,} images"
        )
    return _Calibration(fitted, rows, sentences, fit_quantiles(distances))


def _describe(
    records: Sequence[Record], classes: Sequence[str], fitted: Recalibration, unlabelled: bool
) -> dict[str, Any]:
    """Return the method, the numbers of images and patients, and the parameters, for run.json and the model card."""
    groups = patient_keys(records)

    def size(name: str | None) -> dict[str, int]:
        mine = [g for g, r in zip(groups, records, strict=True) if name in (None, r.label)]
        return {"images": len(mine), "patients": len(set(mine))}

    return {
        "method": "prior correction without labels" if unlabelled else "temperature and bias",
        **size(None),
        "by_class": {} if unlabelled else {name: size(name) for name in classes},
        "scale": fitted.scale,
        "bias": dict(zip(classes, fitted.bias, strict=True)),
    }

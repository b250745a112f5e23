"""Find the bags (studies or patients) at some paths, and predict each bag as a whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cvrnet.data import Record, scan_records
from cvrnet.data.data_set import DataSet
from cvrnet.data.studies import STUDY, Study, group_studies
from cvrnet.data.volumes import expand_volumes
from cvrnet.data.walk import walk
from cvrnet.errors import UserError
from cvrnet.inference.decide import Decide
from cvrnet.inference.predict_paths import matching_names
from cvrnet.inference.predictor import Predictor
from cvrnet.inference.study_predictor import StudyPredictor
from cvrnet.inference.uncertainty import UNCERTAINTY
from cvrnet.text import printable


class FoundStudies(NamedTuple):
    """The bags (studies or patients) that `find_studies` found at some paths."""

    studies: list[Study]
    problems: list[str]  #: a line for each file, folder, manifest row or bag that cannot be used


def find_studies(
    paths: Iterable[str | DataSet], unit: str, slices: int, say: Callable[[str], object] = lambda line: None
) -> FoundStudies:
    """Find the bags (studies or patients) at some paths.

    A path is a picture, a volume, a folder, a CSV manifest, an ``hfds:`` data set or a pattern. If a picture has no
    ``study_id`` in a manifest and is not a slice of a volume, its folder is its study. A picture that is itself one of
    the paths is a study of one picture. From each volume, at most ``slices`` slices are taken.

    Raises:
        UserError: A data set cannot be read or mixes modalities, or the unit is ``patient`` and no picture names its
            patient.
    """
    records: list[Record] = []
    problems: list[str] = []
    for given in paths:
        text, path = str(given), Path(given)
        manifest = os.path.isfile(path / "manifest.csv") or (path.suffix.lower() == ".csv" and os.path.isfile(path))
        if manifest or text.startswith("hfds:"):
            found, wrong = scan_records(given, labelled=False, volumes=True, say=say)
            records += found
            problems += wrong
        elif os.path.isdir(path):
            names = walk(path, volumes=True).images
            records += [Record(path / name, f"{text}/{name}") for name in names]
            if not names:
                problems.append(f"{printable(text)}: no image found in this folder")
        else:
            records += [Record(Path(name), name, metadata={STUDY: name}) for name in matching_names(text)]
    pictures, further = expand_volumes(records, slices)
    pictures = [_in_its_folder(record) for record in pictures]
    studies, wrong = group_studies(pictures, unit, labelled=False) if pictures else ([], [])
    return FoundStudies(studies, [*problems, *further, *wrong])


def _in_its_folder(record: Record) -> Record:
    """Return the record; if it has no study, its folder becomes the study."""
    if record.metadata.get(STUDY):
        return record
    return replace(record, metadata={**record.metadata, STUDY: str(Path(record.name).parent)})


def study_rows(
    predictor: Predictor,
    studies: Sequence[Study],
    decide: Decide,
    *,
    batch_size: int,
    heads: bool,
    uncertainty: bool,
) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """Return the column names, and a row with the prediction for each bag.

    The columns ``top_picture`` and ``top_attention`` have the name of the picture with the largest share in the
    prediction, and this share. The column ``error`` says why a bag has no prediction, or which of its pictures could
    not be read.
    """
    columns = [predictor.unit, "patient_id", "pictures", "prediction", *decide.columns]
    columns += [f"prob_{name}" for name in predictor.classes]
    if heads:
        columns += [f"head_{i + 1}_{name}" for i in range(predictor.num_heads) for name in predictor.classes]
    columns += [*(UNCERTAINTY if uncertainty else ()), "top_picture", "top_attention", "error"]
    stream = StudyPredictor(predictor).stream(studies, batch_size=batch_size, heads=heads)

    def rows() -> Iterator[dict[str, Any]]:
        for answer in stream:
            study, prediction = answer.study, answer.prediction
            row = dict.fromkeys(columns) | {"pictures": len(study.pictures), "patient_id": study.patient_id}
            row |= prediction.row(predictor.classes) | {predictor.unit: study.name, "unit": predictor.unit}
            row["error"] = "; ".join(text for text in (prediction.error, *answer.problems) if text)
            if not prediction.error:
                share = answer.shares.mean(0)
                top = int(share.argmax())
                row |= {"top_picture": study.pictures[top].name, "top_attention": float(share[top])}
                row |= decide.row(prediction.probabilities)
            yield {name: value for name, value in row.items() if name in (*columns, "unit")}

    return columns, rows()


def check_options(**given: object) -> None:
    """Raise UserError if an option is given that is only for models of single images."""
    if wrong := [name for name, value in given.items() if value]:
        raise UserError(f"{', '.join(wrong)}: cannot be used with a model that predicts whole studies or patients")

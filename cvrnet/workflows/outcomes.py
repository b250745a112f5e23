"""The steps of a job that are different if its model predicts an event, such as death, instead of labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvrnet.data import DataError, Record, scan_records
from cvrnet.data.data_set import DataPath
from cvrnet.data.outcomes import YES, Course, Outcome, describe_course, read_course
from cvrnet.data.preprocessing import outcome_note
from cvrnet.data.studies import Study
from cvrnet.data.volumes import expand_volumes
from cvrnet.errors import UserError
from cvrnet.inference import Predictor
from cvrnet.inference.study_predictor import StudyPredictor
from cvrnet.report.outcome_text import outcome_sentences
from cvrnet.runs.baselines import Answer, Baselines, write_baselines
from cvrnet.runs.predictions import AnyTable


@dataclass(frozen=True)
class Films:
    """The radiographs (films) of a data set, and which of them may be used to predict an outcome."""

    course: Course
    all: Sequence[Record]
    kept: list[Record]  #: films that may be used; they have no labels yet
    problems: list[str]  #: a line for each film and patient that cannot be used
    late: list[str]  #: a line for each film that is not used because of its day or the day of the event

    @classmethod
    def at_risk(cls, records: Sequence[Record], outcome: Outcome) -> Films:
        """Find the films that may be used to predict the outcome (see `Course.at_risk`). Errors as in `read_course`."""
        course, wrong = read_course(records, outcome)
        kept, further, late = course.at_risk(records)
        return cls(course, records, kept, [*wrong, *further], late)


def label_films(
    films: Films, readable: Sequence[Record], unit: str, say: Callable[[str], object], both: bool = True
) -> tuple[list[Record], dict[str, Any]]:
    """Return the readable films with their labels, and the value of the key ``outcome`` of run.json.

    ``say`` is called with a line for each problem, and with lines on how many films are dropped and kept. With
    ``both``, the labels ``yes`` and ``no`` must both occur.

    Raises:
        UserError: No film is left or, with ``both``, one of the two labels does not occur.
    """
    labelled, censored = films.course.label(readable, unit)
    found = describe_course(films.course, films.all, labelled, films.late, censored, unit)
    sentences = outcome_sentences(found)
    if not labelled or (both and len({record.label for record in labelled}) < 2):
        raise UserError(f"no event can be predicted from these data: {' '.join(sentences)}")
    for line in films.problems:
        say(f"Warning: {line}")
    for note in films.course.notes:
        say(f"Warning: {note}")
    for sentence in sentences:
        say(sentence)
    return labelled, found


def read_outcome(
    predictor: Predictor, outcome: Outcome, data: DataPath, say: Callable[[str], object]
) -> tuple[list[Record], list[str], dict[str, Any]]:
    """Read the films of a data set, and label them for a model that predicts an outcome.

    Returns:
        The labelled films; a line for each film or patient that cannot be used; and the value of the key ``outcome`` of
        run.json, which also lists the films that are not used because of their day or the day of the event.

    Raises:
        DataError: The manifest cannot be used.
        UserError: The manifest does not have the column of the event, or no film is left.
    """
    unit = predictor.unit
    records, problems = scan_records(data, labelled=False, volumes=unit != "image", say=say)
    if unit != "image":
        records, further = expand_volumes(records, predictor.preprocessing.slices)
        problems += further
    if not records or (problems and unit == "image"):
        raise DataError(problems or ["no images"], data)
    films = Films.at_risk(records, outcome)
    labelled, found = label_films(films, films.kept, unit, say, both=False)
    return labelled, [*problems, *films.problems], found


def outcome_of(predictor: Predictor) -> Outcome | None:
    """Return the outcome that a model predicts; None for a model that predicts labels."""
    return Outcome.from_note(outcome_note(predictor.models[0].pretrained_cfg))


def refuse_outcome(model: Any, what: str) -> None:
    """Raise UserError for a model that predicts an event; ``what`` names the job that refuses it."""
    if outcome := Outcome.from_note(outcome_note(model.pretrained_cfg)):
        raise UserError(f"the model predicts the event {outcome.column}; {what} needs a model that predicts labels")


def add_baselines(
    folder: Path, sets: Mapping[str, Sequence[Any]], tables: Mapping[str, AnyTable], answer: Answer | None
) -> None:
    """Write baselines.csv (see `cvrnet.runs.baselines`) for all sets that have a table of predictions.

    For a model of bags (all films of a study or patient), two bags of one film are made from each bag: one with its
    first film, one with its last film. ``answer`` returns the probability of the event for such bags. For a model of
    single images, ``answer`` is None.
    """
    found = {}
    for part, table in tables.items():
        if answer is not None:
            names = {*table.names}
            found[part] = Baselines.of_bags([bag for bag in sets[part] if bag.name in names], answer)
        else:
            own = zip(table.names, table.probabilities[:, table.classes.index(YES)].tolist(), strict=True)
            found[part] = Baselines.of_films(sets[part], dict(own))
    write_baselines(folder, found)


def study_answer(predictor: Predictor, batch_size: int) -> Answer | None:
    """Return the argument ``answer`` of `add_baselines`, for a trained model.

    For a model of single images, this is None. The answer for a bag without a readable picture is NaN.
    """
    if predictor.unit == "image":
        return None
    yes = predictor.classes.index(YES)

    def answer(studies: Sequence[Study]) -> list[float]:
        stream = StudyPredictor(predictor).stream(studies, batch_size=batch_size)
        return [float(found.prediction.probabilities[yes]) for found in stream]

    return answer

"""Read and decode the data set of a job that trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cvrnet.data import DataError, ImageCache, scan_records
from cvrnet.data.data_set import DataPath
from cvrnet.data.splits import unused_split
from cvrnet.data.volumes import expand_volumes
from cvrnet.training import TrainConfig
from cvrnet.training.processes import Processes
from cvrnet.workflows.decode import Stage, decode_images
from cvrnet.workflows.findings import with_findings
from cvrnet.workflows.outcomes import Films, label_films
from cvrnet.workflows.studies import with_studies


@dataclass(frozen=True)
class ReadData:
    """The images or bags that a job trains and tests on, and what is left out."""

    records: list[Any]  #: images or, if the config's ``unit`` is not "image", bags (studies or patients)
    config: TrainConfig  #: names the findings; for bags, ``time`` is False if no picture has a day
    cache: ImageCache  #: the decoded images
    left_out: Sequence[str]  #: a line for each picture, bag and patient that cannot be used
    outcome: Mapping[str, Any] = field(default_factory=dict)  #: see `cvrnet.data.outcomes.describe_course`


def read_training_data(
    data: DataPath,
    config: TrainConfig,
    classes: Sequence[str] | None,
    cache_folder: Path | None,
    processes: Processes,
    stage: Stage,
    say: Callable[[str], object],
) -> ReadData:
    """Read, select, decode and label the images; ``say`` is called with messages for the user.

    Raises:
        DataError: The data set has errors; the message lists everything that is wrong with the manifest and the images.
        UserError: The data set lacks something that the config needs, such as the findings or the outcome.
    """
    bags, foretold = config.unit != "image", config.foretold
    records, problems = scan_records(data, labelled=not (config.findings or foretold), volumes=bags, say=say)
    if warning := unused_split(records):
        say(f"Warning: {warning}")
    if bags:
        records, further = expand_volumes(records, config.slices)
        problems += further
    films = Films.at_risk(records, foretold) if foretold and records else None
    records = films.kept if films else records
    cache, unreadable = decode_images(records, config, cache_folder, processes, stage)
    problems, left_out = [*problems, *unreadable], []
    if problems and not bags:
        raise DataError(problems, data)
    outcome: dict[str, Any] = {}
    if films:
        readable = [record for record in records if cache.has(record.path)]
        records, outcome = label_films(films, readable, config.unit, say)
        left_out = films.problems
    if bags:
        records, config, more = with_studies(records, problems, cache, config, data, say)
        left_out = [*left_out, *more]
    elif config.findings:
        records, config = with_findings(records, config, classes, say)
    return ReadData(records, config, cache, left_out, outcome)

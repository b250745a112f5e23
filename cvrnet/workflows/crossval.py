"""Run the papers' cross-validation (first paper, Fig. 3); it can be interrupted and resumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvrnet.data import INDEPENDENT, Record, make_folds
from cvrnet.data.data_set import DataPath
from cvrnet.data.splits import fold_sets, hold_back
from cvrnet.errors import UserError
from cvrnet.formatting import count
from cvrnet.runs.layout import SPLIT, fold_name
from cvrnet.runs.split_table import read_folds
from cvrnet.training import TrainConfig
from cvrnet.workflows.callbacks import Callbacks
from cvrnet.workflows.collect import collect
from cvrnet.workflows.job import Job, open_run, start_job, with_features
from cvrnet.workflows.train import refuse_missing, train_sets


@dataclass(frozen=True)
class Folds:
    """The folds of a data set. The images of a fold are the test images of this fold's model.

    Attributes:
        inside: The images that are in the folds.
        numbers: For each image in ``inside``, the number of its fold, counted from 1.
        independent: The images that are held back for testing; they are in no fold.
        test_source: The source of the independent images; "" if the data set's column ``split`` holds them back.
        count: Number of folds.
        left_out: Number of images that are neither in a fold nor independent: with a ``test_source``, the images of
            other sources whose ``split`` is ``test``.
    """

    inside: list[Record]
    numbers: list[int]
    independent: list[Record]
    test_source: str
    count: int
    left_out: int

    def members(self) -> Iterator[tuple[Record, str | int]]:
        """Yield each image with the number of its fold or, if it is held back, with ``"independent"``."""
        yield from zip(self.inside, self.numbers, strict=True)
        yield from ((record, INDEPENDENT) for record in self.independent)

    def sets(self, fold: int) -> dict[str, list[Record]]:
        """Return the sets ``train``, ``val``, ``test`` of one fold and, if images are held back, ``independent``."""
        beside = {INDEPENDENT: self.independent} if self.independent else {}
        return fold_sets(self.inside, self.numbers, fold) | beside


def cross_validate(
    data: DataPath,
    output: str | Path,
    config: TrainConfig | None = None,
    *,
    n_folds: int = 5,
    classes: Sequence[str] | None = None,
    test_source: str = "",
    split_from: Path | None = None,
    only_fold: int | None = None,
    audit: bool = True,
    maps: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    cache_folder: Path | None = None,
    log: str = "",
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Train a model for each fold k: it is tested on fold k, validated on the next fold, and trained on the others.

    This is the protocol of the first paper (Fig. 3). Folds are stratified by label and source, and never share a
    patient. They are saved before anything is trained. The models of all folds are also scored on the independent
    images; the second paper has such a set, too. The run folder gets run.json, split.csv, fold-1/ and so on,
    summary.json, figures/, tables/, report.html and audit.html.

    With ``only_fold``, only that fold is trained, so that several machines can train one fold each;
    `cvrnet.workflows.collect` then combines their results. Other arguments and errors: see `cvrnet.workflows`.

    Returns:
        The content of summary.json; with ``only_fold``, the content of the fold's metrics.json.
    """
    output, resume = Path(output), resume or only_fold is not None
    check_folds(n_folds)
    part = "" if only_fold is None else fold_name(only_fold)
    settings = (classes, cache_folder, callbacks, audit, maps, resume, overwrite, log, part)
    with start_job("crossval", data, output, config, *settings) as job:
        folds = choose_folds(job, job.place.folder, n_folds, test_source, split_from)
        if only_fold is not None and not 1 <= only_fold <= folds.count:
            raise UserError(f"there is no fold {only_fold}; expected 1 to {folds.count}")
        return train_folds(job, job.place.folder, folds, only_fold=only_fold)


def check_folds(n_folds: int) -> None:
    """Raise UserError for fewer than three folds."""
    if n_folds < 3:
        raise UserError(f"{count(n_folds, 'fold')}; expected at least 3: for testing, validation and training")


def choose_folds(job: Job, output: Path, n_folds: int, test_source: str, split_from: Path | None = None) -> Folds:
    """Make folds, or read them from ``split_from`` or from the split.csv of the resumed run.

    Raises:
        UserError: The data set does not allow these folds, or a fold's training images lack a class or finding.
    """
    inside, independent = hold_back(job.records, test_source)
    resumed = output / SPLIT
    if split_from is not None:
        numbers = read_folds(split_from, inside)
        n_folds = max(numbers)
    elif job.resume and resumed.is_file():
        numbers = read_folds(resumed, inside)  # another version of scikit-learn could make other folds
    else:
        numbers = make_folds(inside, n_folds, job.config.seed, job.config.findings)
    left_out = len(job.records) - len(inside) - len(independent)
    folds = Folds(inside, numbers, independent, test_source, n_folds, left_out)
    if left_out and job.processes.is_main:
        job.callbacks.say(
            f"Left out, because split=test: {count(left_out, 'image')} of other sources than {test_source}"
        )
    for fold in range(1, max(numbers) + 1):
        refuse_missing(job, folds.sets(fold)["train"])
    return folds


def train_folds(job: Job, output: Path, folds: Folds, name: str = "", only_fold: int | None = None) -> dict[str, Any]:
    """Train and test a model for each fold of a run, and combine the folds' results (see `collect`).

    With ``only_fold``, train and test only the model of this fold. ``name`` is for `Callbacks.training`.
    """
    open_run(job, output, "crossval", folds.members(), folds.test_source, folds=folds.count)
    metrics: dict[str, Any] = {}
    chosen = list(range(1, folds.count + 1)) if only_fold is None else [only_fold]
    job = with_features(job, [output / fold_name(fold) for fold in chosen])
    for fold in chosen:
        metrics = train_sets(job, folds.sets(fold), output / fold_name(fold), name, fold)
    if only_fold is None and job.processes.is_main:
        metrics = collect(output, maps=job.maps)
    job.processes.wait()
    return metrics

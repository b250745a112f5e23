"""Read the files of a finished run or evaluation for its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvrnet.errors import UserError
from cvrnet.metrics.decisions import Decisions
from cvrnet.runs.decisions import KEY, load_decisions
from cvrnet.runs.finding_predictions import FindingTable, table_kind
from cvrnet.runs.layout import AUDIT, HISTORY, INDEPENDENT, METRICS, SOURCE_PROBE, SPLIT, SUMMARY
from cvrnet.runs.predictions import AnyTable
from cvrnet.runs.read import read_folds, read_json, read_rows, read_run

SETS = {"val": "validation", "test": "test", INDEPENDENT: "independent"}


@dataclass(frozen=True)
class Results:
    """The results of a run or an evaluation."""

    folder: Path
    run: Mapping[str, Any]  #: run.json
    results: Mapping[str, Any]  #: summary.json of a cross-validation, or metrics.json of any other run
    shown: str  #: name of the set that the report shows: ``test``; for a single training ``independent`` or ``val``
    scores: Mapping[str, Any]  #: scores on this set; for a cross-validation, of all folds' pooled predictions
    predictions: Any  #: predictions of all folds on this set: a `PredictionTable` or a `FindingTable`
    split: list[dict[str, str]]  #: the rows of split.csv; empty for an evaluation
    histories: list[list[dict[str, str]]]  #: the rows of history.csv of each fold; empty for an evaluation
    audit: Mapping[str, Any]  #: audit.json; empty if the data set was not audited
    probe: list[dict[str, str]]  #: the rows of `cvrnet.report.source_probe`; empty if no probe was made

    @property
    def kind(self) -> str:
        """``crossval``, ``train`` or ``evaluate``; soups and calibrations are reported as evaluations."""
        kind = str(self.run["kind"])
        return "evaluate" if kind in ("soup", "calibrate") else kind

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several findings."""
        return isinstance(self.predictions, FindingTable)

    @property
    def noun(self) -> str:
        """What the model predicts: ``finding`` or ``class``."""
        return "finding" if self.multilabel else "class"

    @property
    def folds(self) -> list[Mapping[str, Any]]:
        """The scores of each fold on the set that `shown` names; without folds, the model's scores on this set."""
        return list(self.results["folds"]) if self.kind == "crossval" else [self.scores]

    @property
    def independent(self) -> Mapping[str, Any] | None:
        """The scores on the independent images, with the predictions of all folds' models in one pool.

        None if there are no independent images, or if the run is not a cross-validation.
        """
        part = self.results.get(INDEPENDENT)
        return part["pooled"] if self.kind == "crossval" and part else None

    @property
    def held_back(self) -> str:
        """The name of the set of independent images: their source, or ``split=test``; "" without independent images."""
        return (self.run.get("test_source") or "split=test") if INDEPENDENT in self.results else ""

    @property
    def sets(self) -> dict[str, Mapping[str, Any]]:
        """Name of a set -> its scores; for a cross-validation, the scores for the predictions of all folds together."""
        if self.kind != "crossval":
            return dict(self.results)
        beside = {} if self.independent is None else {INDEPENDENT: self.independent}
        return {self.shown: self.scores, **beside}

    @property
    def sources(self) -> list[str]:
        """All named sources of the data set."""
        named = [row["source"] for row in self.split] or self.predictions.sources
        return sorted({*named} - {""})

    @property
    def folders(self) -> list[Path]:
        """The folders with predictions.csv: the folders of the folds, or the only folder."""
        return read_folds(self.folder, self.run) if self.kind == "crossval" else [self.folder]

    @cached_property
    def decisions(self) -> list[Decisions]:
        """The decisions (thresholds, prediction sets, abstention) of each fold's model.

        Without folds, the list has only the decisions of the model or ensemble.
        """
        if self.kind == "evaluate":
            return [Decisions.from_dict(self.run.get(KEY), self.predictions.classes)]
        return [load_decisions([folder]) for folder in self.folders]

    @cached_property
    def judged(self) -> dict[str, Any]:
        """Name of a set -> its predictions.

        The sets are the one that `shown` names and, for a cross-validation with independent images, ``independent``.
        """
        tables = {self.shown: self.predictions}
        if self.independent is not None:
            tables[INDEPENDENT] = table_kind(self.run).read(self.folders, self.predictions.classes, INDEPENDENT)
        return tables

    def by_model(self, table: AnyTable) -> Iterator[tuple[Decisions, NDArray[np.bool_]]]:
        """Yield each model's `Decisions` (such as thresholds), and a mask (N,) of the images that it predicted."""
        folds = np.array(table.folds)
        for fold, decisions in enumerate(self.decisions, start=1):
            yield decisions, folds == (str(fold) if len(self.decisions) > 1 else "")

    def set_title(self, name: str) -> str:
        """Return the name that tables show for a set; for the independent set, it is the value of `held_back`."""
        return self.held_back if name == INDEPENDENT else SETS[name]


def read_results(folder: Path) -> Results:
    """Read a run or an evaluation; raise UserError if it is not finished, or if a file is damaged."""
    run = {"data": "", **read_run(folder)}
    crossval, trained = run.get("kind") == "crossval", run.get("kind") in ("crossval", "train")
    results = read_json(folder / (SUMMARY if crossval else METRICS))
    shown = "test" if crossval else list(results)[-1]
    scores = results["pooled"] if crossval else results[shown]
    if "intervals" not in scores:
        raise UserError(f"the scores in {folder} are from another version of cvrnet; evaluate the model again")
    folders = read_folds(folder, run) if crossval else [folder]
    predictions = table_kind(run).read(folders, run["classes"], shown)
    if run.get("kind") == "train" and "test" in results:  # the name of the independent set in version 0.1
        results, shown = {"val": results["val"], INDEPENDENT: results["test"]}, INDEPENDENT
    split = read_rows(folder / SPLIT) if trained else []
    histories = [read_rows(f / HISTORY) for f in folders] if trained else []
    audit = read_json(folder / AUDIT) if (folder / AUDIT).is_file() else {}
    probe = read_rows(folder / SOURCE_PROBE) if (folder / SOURCE_PROBE).is_file() else []
    return Results(folder, run, results, shown, scores, predictions, split, histories, audit, probe)

"""Predict intensive care from radiographs taken on the ward; print the tables of docs/prognosis.md.

python benchmarks/prognosis.py FOLLOWUP [FOLDER]        default: a temporary folder, removed at the end

FOLLOWUP has manifest.csv with the columns path, label (ICU or WARD), patient_id, view, day and icu_day. cvrnet_lite
with frozen encoders is cross-validated in five folds by patient, with five seeds; each seed also makes its own folds.
The probabilities of a patient (or radiograph) are averaged over the seeds. The script prints the AUC with its 95 %
interval (bootstrap over patients), the range over single seeds, and the paired test (DeLong's) of the first row against
each other row on the same patients.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cvrnet.data import Record, read_records, write_manifest
from cvrnet.data.outcomes import YES, Outcome, describe_course, read_course, view_score
from cvrnet.data.studies import Study, day_of, group_studies
from cvrnet.metrics.bootstrap import auc_interval
from cvrnet.metrics.paired_models import compare_auc
from cvrnet.report.outcome import calibration_row
from cvrnet.report.outcome_text import event_patients, evidence_sentence, outcome_sentences
from cvrnet.runs.layout import SPLIT
from cvrnet.runs.predictions import PredictionTable
from cvrnet.runs.read import read_folds, read_run
from cvrnet.training import recipe
from cvrnet.workflows import cross_validate

SEEDS, HORIZON = range(5), 14
PLAIN: dict[str, Any] = {"audit": False, "maps": False, "overwrite": True}
ICU = {"outcome": "icu_day", "horizon": HORIZON}


class Scores:
    """The predicted probabilities of the same patients (or radiographs) in several runs, one for each seed."""

    def __init__(self, tables: Sequence[PredictionTable], event: str) -> None:
        first, k = tables[0], tables[0].classes.index(event)
        self.names, self.patients, self.truth = first.names, first.groups, first.truth(k) == 1
        place = [{name: i for i, name in enumerate(table.names)} for table in tables]
        rows = [[at[name] for name in self.names] for at in place]
        self.seeds = np.array([t.probabilities[own, k] for t, own in zip(tables, rows, strict=True)])
        self.mean = self.seeds.mean(0)
        mean = np.mean([t.probabilities[own] for t, own in zip(tables, rows, strict=True)], axis=0)
        self.table = PredictionTable(
            first.classes, first.names, first.labels, mean, first.sources, first.patients, first.folds
        )

    def of(self, names: Sequence[str]) -> np.ndarray:
        """Return the mean probabilities of the patients or radiographs with these names."""
        return self.mean[[self.names.index(name) for name in names]]

    @property
    def spread(self) -> str:
        """Return the lowest and the highest AUC of a single seed, as text."""
        aucs = [auc_interval(self.truth, scores)[0] or 0 for scores in self.seeds]
        return f"{min(aucs):.2f} to {max(aucs):.2f}"


def run(
    root: Path, name: str, data: Path, recipe_name: str, splits: str = "", folds: int = 5, **settings: Any
) -> Scores:
    """Cross-validate with each seed; if ``splits`` names earlier runs, use their folds again."""
    tables = []
    for seed in SEEDS:
        config = recipe(recipe_name, model="cvrnet_lite", freeze="all", seed=seed, **settings)
        split = root / f"{splits}-{seed}" / SPLIT if splits else None
        place = root / f"{name}-{seed}"
        cross_validate(data, place, config, n_folds=folds, split_from=split, cache_folder=root / "cache", **PLAIN)
        described = read_run(place)
        tables.append(PredictionTable.read(read_folds(place, described), described["classes"], "test"))
    return Scores(tables, "ICU" if "ICU" in tables[0].classes else YES)


def line(name: str, truth: Any, scores: Any, patients: Sequence[str], spread: str = "", first: Any = None) -> None:
    """Print a row of the table; ``first`` are the scores of the first row, for the comparison with this row."""
    auc, bounds = auc_interval(truth, scores, patients)
    low, high = bounds or (float("nan"),) * 2
    test = ""
    if first is not None:
        found = compare_auc(truth, first, scores, patients)
        test = f"{found['difference']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f}), p = {found['p']:.2f}"
    print(f"| {name} | {auc:.2f} ({low:.2f} to {high:.2f}) | {spread} | {test} |", flush=True)


def title(text: str) -> None:
    """Print the head of a table."""
    print(f"\n{text}\n\n| | AUC (95 %) | single seeds | first row minus this row |\n| --- | --- | --- | --- |")


def chosen_films(bags: Sequence[Study], folder: Path, which: Any) -> Path:
    """Write a manifest with the first (``min``) or last (``max``) radiograph of each bag; return its path."""
    films = [which(bag.pictures, key=lambda film: (day_of(film) or 0.0, film.name)) for bag in bags]
    path = folder / f"{which.__name__}.csv"
    write_manifest(path, films)
    return path


def view_of_last(bag: Record) -> float:
    """Return the view of the last radiograph as a score: AP 1, PA 0, other 0.5."""
    return view_score(bag.pictures[-1].view if isinstance(bag, Study) else bag.view)


def before_the_event(data: Path, root: Path) -> None:
    """Print two tables: predictions for patients, from all radiographs before the event, and for single radiographs."""
    records = read_records(data, labelled=False)
    course, _ = read_course(records, Outcome("icu_day", "first", HORIZON))
    kept, _, late = course.at_risk(records)
    labelled, censored = course.label(kept, "patient")
    print(*outcome_sentences(describe_course(course, records, labelled, late, censored, "patient")))
    bags = {bag.name: bag for bag in group_studies(labelled, "patient")[0]}
    model = run(root, "patients", data, "studies", unit="patient", **ICU)
    print(evidence_sentence(*event_patients(model.table)))
    title("Patients: all radiographs before the event, --unit patient")
    truth, patients, first = model.truth, model.patients, model.mean
    line("CVR-Net, all radiographs and their days", truth, first, patients, model.spread)
    for name, which in (("first", min), ("last", max)):
        films = chosen_films(list(bags.values()), data, which)
        other = run(root, name, films, "studies", "patients", unit="patient")
        title_of_row = f"CVR-Net trained on the {name} radiograph alone"
        line(title_of_row, truth, other.of(model.names), patients, other.spread, first)
    mine = [bags[name] for name in model.names]
    line("number of radiographs", truth, [len(bag.pictures) for bag in mine], patients, "", first)
    line("view of the last radiograph: AP or PA", truth, [view_of_last(bag) for bag in mine], patients, "", first)
    calibrated(model)
    films = {record.name: record for record in course.label(kept)[0]}
    single = run(root, "films", data, "frozen", **ICU)
    events = int(single.truth.sum())
    title(f"Single radiographs before the event ({len(single.names)}, {events} with the event within {HORIZON} days)")
    line("CVR-Net", single.truth, single.mean, single.patients, single.spread)
    views = [view_score(films[name].view) for name in single.names]
    line("view: AP or PA", single.truth, views, single.patients, "", single.mean)
    calibrated(single)


def calibrated(scores: Scores) -> None:
    """Print the calibration of the mean probabilities."""
    row = calibration_row(scores.table)
    observed = f"{row['observed']:.3f} ({row['observed_low']:.3f} to {row['observed_high']:.3f})"
    brier = f"Brier {row['brier']:.3f}, of the observed share {row['brier_of_share']:.3f}"
    print(f"\nCalibration: event observed {observed}, mean probability {row['predicted']:.3f}; {brier}")


def with_the_leak(data: Path, root: Path) -> None:
    """Print the table with the leak: all radiographs; the label is whether the patient was ever in intensive care."""
    bags: Mapping[str, Study] = {bag.name: bag for bag in group_studies(read_records(data), "patient")[0]}
    model = run(root, "leak", data, "studies", unit="patient")
    title("With the leak: all radiographs of all patients, ICU or WARD")
    mine = [bags[name] for name in model.names]
    line("CVR-Net, all radiographs and their days", model.truth, model.mean, model.patients, model.spread)
    for name, scores in (
        ("number of radiographs", [len(bag.pictures) for bag in mine]),
        ("view of the last radiograph: AP or PA", [view_of_last(bag) for bag in mine]),
    ):
        line(name, model.truth, scores, model.patients, "", model.mean)


def at_admission(data: Path, root: Path) -> None:
    """Print the table at admission: radiographs until that day, in three folds, because few events are left."""
    model = run(root, "admission", data, "studies", folds=3, unit="patient", until="admission", **ICU)
    print("", evidence_sentence(*event_patients(model.table)), sep="\n")
    title("At admission, --until admission")
    line("CVR-Net, radiographs until day 0", model.truth, model.mean, model.patients, model.spread)
    films: dict[str, list[Record]] = {}
    for record in sorted(read_records(data, labelled=False), key=lambda film: (day_of(film) or 0.0, film.name)):
        if (day_of(record) or 0.0) <= 0:
            films.setdefault(record.patient_id, []).append(record)
    line("number of radiographs", model.truth, [len(films[n]) for n in model.names], model.patients, "", model.mean)
    views = [view_of_last(films[n][-1]) for n in model.names]
    line("view of the last radiograph: AP or PA", model.truth, views, model.patients, "", model.mean)


def main() -> None:
    """Print all tables."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(sys.argv[2] if sys.argv[2:] else temporary)
        root.mkdir(parents=True, exist_ok=True)
        data = copy_of(Path(sys.argv[1]), root / "data")
        before_the_event(data, root)
        with_the_leak(data, root)
        at_admission(data, root)


def copy_of(source: Path, folder: Path) -> Path:
    """Make a folder with a copy of the manifest and a link to its images, for further manifests; return the folder."""
    folder.mkdir(exist_ok=True)
    if not (folder / "images").exists():
        (folder / "images").symlink_to((source / "images").resolve())
    with (source / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


if __name__ == "__main__":
    main()

"""report.html of a job whose images may have several findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cvrnet import figures
from cvrnet.files import damaged_files, write_sheet, write_text
from cvrnet.formatting import interval, number
from cvrnet.html import Picture, Table, figure_picture, render
from cvrnet.metrics.bootstrap import share_interval
from cvrnet.metrics.decisions import Decisions
from cvrnet.metrics.findings import SCORES
from cvrnet.metrics.operating_points import RULES, positives, threshold_warnings
from cvrnet.report.headline import without_folders
from cvrnet.report.report_tables import with_interval
from cvrnet.report.write import Section
from cvrnet.runs.decisions import KEY, load_decisions
from cvrnet.runs.finding_predictions import FindingTable, read_finding_predictions
from cvrnet.runs.layout import FIGURES, INDEPENDENT, METRICS, REPORT, SPLIT, SUMMARY, TABLES
from cvrnet.runs.read import read_folds, read_json, read_rows, read_run

Row = dict[str, Any]
MEAN = "mean"  #: instead of a finding, the mean over those that are scored
_TITLES = ("AUC", "Average precision", "Brier score", "Calibration error")


def read_findings(folder: Path) -> tuple[dict[str, Any], FindingTable]:
    """run.json, and the predictions of the set that the report shows first."""
    run, folders = _read_run(folder)
    shown = "test" if run["kind"] != "train" else list(read_json(folder / METRICS))[-1]
    return run, read_finding_predictions(folders, list(run["classes"]), shown)


def write_findings_report(folder: Path, further: Sequence[Section] = ()) -> Path:
    """Write report.html, figures/findings.png and tables/*.csv from the files of a run or an evaluation of findings.

    The sections in ``further`` come before the learning curves.

    Raises:
        UserError: The folder holds no finished run, or a damaged one.
    """
    with damaged_files(folder):
        run, folders = _read_run(folder)
        crossval = run["kind"] == "crossval"
        models = _decisions(run, folders)
        results = read_json(folder / (SUMMARY if crossval else METRICS))
        sets = _sets(results, crossval)
        rows = [row for name, scores in sets.items() for row in finding_rows(name, scores)]
        tables = {"findings": rows, "operating_points": list(_point_rows(folders, models, sets))}
        if heads := _head_rows(results, sets, crossval):
            tables["heads"] = heads
        for name, found in tables.items():
            write_sheet(folder / TABLES / f"{name}.csv", found)
        shown = next(reversed(sets)) if run["kind"] == "train" else next(iter(sets))
        _draw(folder, [row for row in rows if row["set"] == shown and not row["source"]])
        write_text(folder / REPORT, _page(folder, run, models, results, sets, tables, shown, further))
    return folder / REPORT


def _read_run(folder: Path) -> tuple[dict[str, Any], list[Path]]:
    """run.json, and the folders with predictions: those of the folds, or the only one."""
    run = {"data": "", **read_run(folder)}
    return run, read_folds(folder, run) if run["kind"] == "crossval" else [folder]


def _decisions(run: Mapping[str, Any], folders: Sequence[Path]) -> list[Decisions]:
    """The thresholds of each model that predicted; those of an evaluation's model are in run.json."""
    if KEY in run:
        return [Decisions.from_dict(run[KEY], run["classes"])]
    return [load_decisions([place]) for place in folders]


def _sets(results: Mapping[str, Any], crossval: bool) -> dict[str, Mapping[str, Any]]:
    """The scores of each set over all folds."""
    if not crossval:
        return dict(results)
    beside = {INDEPENDENT: results[INDEPENDENT]["pooled"]} if INDEPENDENT in results else {}
    return {"test": results["pooled"], **beside}


def finding_rows(name: str, scores: Mapping[str, Any]) -> Iterator[Row]:
    """A row for each finding of a set, and for their mean: first on all images, then on those of each source."""
    for source, part in {"": scores, **scores.get("per_source", {})}.items():
        whole, spread = part["per_finding"], part["intervals"]
        for finding in part["findings"]:
            row = {"set": name, "source": source, "finding": finding}
            row |= {key: whole[finding][key] for key in ("positives", "negatives", "unknown")}
            yield row | _spread(whole[finding], spread["per_finding"][finding])
        yield {"set": name, "source": source, "finding": MEAN} | _spread(part["macro"], spread["macro"])


def _spread(values: Mapping[str, Any], bounds: Mapping[str, Any]) -> Row:
    found: Row = {}
    for key in SCORES:
        found |= with_interval(key, values[key], bounds[key])
    return found


def _point_rows(folders: Sequence[Path], members: Sequence[Decisions], sets: Mapping[str, Any]) -> Iterator[Row]:
    """What each operating point achieves on each set; each image is decided by the model that predicted it."""
    findings = list(next(iter(sets.values()))["findings"])
    for name in sets:
        table = read_finding_predictions(folders, findings, name)
        for rule in RULES:
            decided = _decide(table, members, rule)
            for k, finding in enumerate(findings):
                known = ~np.isnan(table.truth[:, k]) & ~np.isnan(decided[:, k])
                if not known.any():
                    continue
                points = [p for m in members for p in m.operating_points if (p.class_name, p.rule) == (finding, rule)]
                row: Row = {"set": name, "finding": finding, "operating_point": points[0].name}
                row["threshold"] = float(np.mean([point.threshold for point in points]))
                groups = np.array(table.groups)
                for rate, value in (("sensitivity", 1), ("specificity", 0)):
                    among = known & (table.truth[:, k] == value)
                    hits = decided[among, k] == value
                    row |= with_interval(rate, *share_interval(hits.astype(float), groups[among].tolist()))
                yield row


def _decide(table: FindingTable, members: Sequence[Decisions], rule: str) -> np.ndarray:
    folds, decided = np.array(table.folds), np.full(table.probabilities.shape, np.nan)
    for fold, member in enumerate(members, start=1):
        mine = folds == (str(fold) if len(members) > 1 else "")
        chosen = [point for point in member.operating_points if point.rule == rule]
        decided[mine] = positives(chosen, table.probabilities[mine], table.findings)
    return decided


def _head_rows(results: Mapping[str, Any], sets: Mapping[str, Any], crossval: bool) -> list[Row]:
    """The mean AUC of each head alone and of the network; in a cross-validation, the mean over the folds."""
    folds = results["folds"] if crossval else [list(sets.values())[-1]]
    if any("heads" not in fold or None in fold["heads"].values() for fold in folds):
        return []
    names = list(folds[0]["heads"])
    rows = [{"head": name, "roc_auc": float(np.mean([fold["heads"][name] for fold in folds]))} for name in names]
    return [*rows, {"head": "the network", "roc_auc": float(np.mean([fold["macro"]["roc_auc"] for fold in folds]))}]


def _draw(folder: Path, rows: Sequence[Row]) -> None:
    scored = [row for row in rows if row["roc_auc"] is not None]
    if scored:
        ranked = sorted(scored[:-1], key=lambda row: -row["roc_auc"]) + scored[-1:]
        figures.save_figure(figures.plot_findings(ranked), folder / FIGURES / "findings.png")


def _page(
    folder: Path,
    run: Mapping[str, Any],
    models: Sequence[Decisions],
    results: Mapping[str, Any],
    sets: Mapping[str, Any],
    tables: Mapping[str, Sequence[Row]],
    shown: str,
    further: Sequence[Section],
) -> str:
    def figure(name: str) -> Picture | None:
        path = folder / FIGURES / f"{name}.png"
        return figure_picture(path.read_bytes()) if path.is_file() else None

    crossval = run["kind"] == "crossval"
    split = read_rows(folder / SPLIT) if (folder / SPLIT).is_file() else []
    titles = {"val": "validation", "test": "test", INDEPENDENT: run.get("test_source") or "split=test"}
    return render(
        "findings.html.jinja",
        run=run,
        model=without_folders(run.get("config", {}).get("model") or run.get("architecture", "")),
        crossval=crossval,
        results=results,
        sets=[
            (titles[name], sets[name], *_finding_tables([r for r in tables["findings"] if r["set"] == name]))
            for name in sets
        ],
        points=Table(
            ["Set", "Finding", "Operating point", "Threshold", "Sensitivity", "Specificity"],
            [
                [
                    titles[row["set"]],
                    row["finding"],
                    row["operating_point"],
                    number(row["threshold"]),
                    *(_cell(row, rate) for rate in ("sensitivity", "specificity")),
                ]
                for row in tables["operating_points"]
            ],
        ),
        heads=Table(["Head", "AUC, mean"], [[row["head"], number(row["roc_auc"])] for row in tables.get("heads", ())]),
        warnings=threshold_warnings(point for member in models for point in member.operating_points),
        patients=len({row["patient_id"] for row in split if row["patient_id"]}) or sets[shown]["patients"],
        figure=figure("findings"),
        learning=figure("learning_curves"),
        further=further,
    )


def _finding_tables(rows: Sequence[Row]) -> tuple[Table, Table]:
    """The table of all images, and that of the AUC in each source."""
    whole = [row for row in rows if not row["source"]]
    cells = [
        [
            row["finding"],
            *(row.get(key, "") for key in ("positives", "negatives", "unknown")),
            *(_cell(row, key) for key in SCORES),
        ]
        for row in whole
    ]
    sources = list(dict.fromkeys(row["source"] for row in rows if row["source"]))
    found = {(row["source"], row["finding"]): _cell(row, "roc_auc") for row in rows}
    by_source = [[row["finding"], *(found[source, row["finding"]] for source in sources)] for row in whole]
    return (
        Table(["Finding", "With it", "Without", "Not known", *_TITLES], cells),
        Table(["AUC of", *sources], by_source if sources else []),
    )


def _cell(row: Row, key: str) -> str:
    return interval(*(row[f"{key}{end}"] for end in ("", "_low", "_high")))

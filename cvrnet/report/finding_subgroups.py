"""Score the findings in subgroups: the AUC of each finding within each group of a manifest's column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cvrnet.html import Table
from cvrnet.metrics.findings import finding_scores
from cvrnet.report.report_tables import cell, with_interval
from cvrnet.runs.finding_predictions import FindingTable
from cvrnet.scoring import MIN_PATIENTS

SCORES = ("roc_auc", "average_precision")
Row = dict[str, Any]


def finding_group_rows(members: Mapping[str, FindingTable]) -> Iterator[Row]:
    """Yield a row for each group and finding, and a row for each group's mean over the findings.

    ``members`` maps each group to the predictions for its images.

    A finding has scores in a group if at least `MIN_PATIENTS` patients of the group have it, and at least
    `MIN_PATIENTS` patients of the group lack it. The mean is over the findings that have scores in all groups, so that
    the means can be compared; groups in which no finding has scores are ignored. If fewer than two findings have scores
    in all groups, there are no means.
    """
    scored = {group: _scored(part) for group, part in members.items()}
    sets = [{*names} for names in scored.values() if names]
    common = [name for name in next(filter(None, scored.values()), []) if all(name in names for names in sets)]
    for group, part in members.items():
        found = _scores(part, scored[group])
        same = found if scored[group] == common else _scores(part, common if scored[group] else [])
        row: Row = {"group": group, "images": len(part.names), "patients": len({*part.groups})}
        for k, name in enumerate(part.classes):
            truth = part.truth(k)
            counts = {"positives": int((truth == 1).sum()), "negatives": int((truth == 0).sum())}
            small = "" if name in scored[group] else f"fewer than {MIN_PATIENTS} patients have the finding, or lack it"
            values, bounds = (tree["per_finding"].get(name, {}) for tree in (found, found["intervals"]))
            yield row | {"finding": name, **counts, "too_small": small, **_cells(values, bounds)}
        if len(common) > 1:
            mean = _cells(same["macro"], same["intervals"]["macro"])
            yield row | {"finding": f"mean of {len(common)} findings"} | mean


def _scored(part: FindingTable) -> list[str]:
    """Return the findings that enough patients have and enough patients lack."""
    return [name for k, name in enumerate(part.classes) if min(part.sides(k)) >= MIN_PATIENTS]


def _scores(part: FindingTable, names: Sequence[str]) -> dict[str, Any]:
    if not names:
        return {"per_finding": {}, "macro": {}, "intervals": {"per_finding": {}, "macro": {}}}
    chosen = part.with_classes(names)
    return finding_scores(chosen.labels, chosen.probabilities, names, chosen.groups)


def _cells(values: Mapping[str, Any], bounds: Mapping[str, Any]) -> Row:
    found: Row = {}
    for key in SCORES:
        found |= with_interval(key, values.get(key), bounds.get(key))
    return found


def finding_group_tables(rows: Sequence[Row]) -> dict[str, Table]:
    """Return AUC tables, one for each manifest column and set of images: rows are findings, columns are groups."""
    tables: dict[str, Table] = {}
    for column, on in dict.fromkeys((row["column"], row["on"]) for row in rows):
        mine = [row for row in rows if (row["column"], row["on"]) == (column, on)]
        groups = {row["group"]: f"{row['patients']:,}" for row in mine}
        found = {(row["group"], row["finding"]): cell(row, "roc_auc") for row in mine}
        names = dict.fromkeys(row["finding"] for row in mine)
        cells = [[name, *(found[group, name] for group in groups)] for name in names]
        tables[f"{column}, on {on}"] = Table(["AUC of", *groups], [["Patients", *groups.values()], *cells])
    return tables

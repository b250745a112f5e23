"""Check images with several findings: which findings occur together, and which are associated with the source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.stats import fisher_exact

from cvrnet.audit.findings import Finding, grade
from cvrnet.audit.metadata_findings import CAME_OR_WENT, MOSTLY, association, from_one_source, label_table
from cvrnet.audit.probes import MIN_PATIENTS
from cvrnet.data import Record
from cvrnet.data.finding_columns import odd_columns
from cvrnet.data.finding_labels import SOME_FINDING
from cvrnet.data.findings import Truth
from cvrnet.data.splits import patient_keys
from cvrnet.formatting import count

CHANCE = 1e-3  # associations with a source or another finding are reported below this p-value (Fisher's exact test)
MOST_NAMED = 5  # maximum number of items that a sentence lists; a number then says how many more there are
_CELLS = ("both", "only_first", "only_second", "neither")

Pairs = dict[str, np.ndarray]
"""Item of `_CELLS` -> array (C, C).

For each pair of C findings, it has the number of images with both, only the first, only the second, or neither.
"""


def several_findings(records: Sequence[Record], names: Sequence[str], truth: Truth) -> list[Finding]:
    """Return the results of the audit about the radiological findings of the images; no pixels are read.

    ``truth`` says which images have which of the C findings, (N, C); see `cvrnet.data.findings.finding_truth`.
    """
    patients, sources = np.array(patient_keys(records)), np.array([r.source for r in records])
    pairs = _pairs(truth)
    found = [_co_occurrence(names, truth, pairs), *_always_together(names, truth, pairs, patients)]
    found += _never_alone(names, truth, pairs, patients)
    found += _ties(names, truth, sources, patients) if len({*sources}) > 1 else []
    return found + _changes(names, truth, np.array([r.patient_id for r in records]))


def _pairs(truth: Truth) -> Pairs:
    """Count, for each pair of findings, the images that have both, only one or neither.

    An image counts for a pair if both findings are known for it.
    """
    has, lacks = (truth == 1).astype(float), (truth == 0).astype(float)
    counts = (has.T @ has, has.T @ lacks, lacks.T @ has, lacks.T @ lacks)
    return {cell: values.astype(int) for cell, values in zip(_CELLS, counts, strict=True)}


def _co_occurrence(names: Sequence[str], truth: Truth, pairs: Pairs) -> Finding:
    """Return the note on how often findings occur together, with a row for each pair, the most frequent pair first."""
    together = np.argwhere(np.triu(pairs["both"], 1)).tolist()
    rows: list[dict[str, Any]] = [
        {"first": names[i], "second": names[j], **{cell: int(pairs[cell][i, j]) for cell in _CELLS}}
        for i, j in sorted(together, key=lambda pair: -pairs["both"][tuple(pair)])
    ]
    number = (truth == 1).sum(1)
    any_, several = int((number > 0).sum()), int((number > 1).sum())
    sentence = f"Of {count(len(truth), 'image')}, {any_:,} have a finding, and {several:,} have several findings"
    if rows:
        top = rows[0]
        sentence += f"; most often together: {top['first']} and {top['second']}, in {count(top['both'], 'image')}"
    figures: dict[str, Any] = {"images": dict(zip(names, (truth == 1).sum(0).tolist(), strict=True))}
    return Finding("co-occurrence", "note", f"{sentence}.", figures | ({"table": rows} if rows else {}))


def _always_together(names: Sequence[str], truth: Truth, pairs: Pairs, patients: np.ndarray) -> Iterator[Finding]:
    """Yield a result (`Finding`) for each pair of radiological findings that nearly always occur together."""
    either = pairs["both"] + pairs["only_first"] + pairs["only_second"]
    for i, j in np.argwhere(np.triu((pairs["both"] >= MOSTLY * either) & (either > 0), 1)):
        if len({*patients[(truth[:, [i, j]] == 1).all(1)]}) < MIN_PATIENTS:
            continue
        share, first, second = float(pairs["both"][i, j] / either[i, j]), names[i], names[j]
        which = f"{'all' if share == 1 else f'{share:.0%} of the'} {either[i, j]:,} images with at least one of them "
        which += "have both"
        sentence = f"{first} and {second} nearly always occur together ({which}): no model can distinguish them."
        advice = "Merge them into one finding, or get images that have only one of them."
        figures, severity = {"share": share, "images": int(either[i, j])}, grade(severe=share == 1, warning=True)
        yield Finding(f"together:{first}|{second}", severity, sentence, figures, advice=advice)


def _never_alone(names: Sequence[str], truth: Truth, pairs: Pairs, patients: np.ndarray) -> list[Finding]:
    """Report findings that almost never occur without another finding, which often occurs without them."""
    first, second = (pairs["both"] + pairs[cell] for cell in ("only_first", "only_second"))
    often = (pairs["both"] >= MOSTLY * first) & (pairs["both"] < MOSTLY * second) & (first > 0)
    rows: list[dict[str, Any]] = []
    of_other: dict[str, list[str]] = defaultdict(list)
    for i, j in np.argwhere(often):
        if _few(truth[:, i], patients) or not _beyond_chance(*(pairs[cell][i, j] for cell in _CELLS)):
            continue
        share = float(pairs["both"][i, j] / first[i, j])
        rows.append({"finding": names[i], "images": int(first[i, j]), "with": names[j], "share": share})
        of_other[names[j]].append(names[i])
    if not rows:
        return []
    largest = sorted(of_other.items(), key=lambda item: -len(item[1]))
    sentence = _some(
        [f"Findings that almost never occur without {other}: {_some(found)}" for other, found in largest], ". "
    )
    advice = "This is expected if one finding includes the other. Otherwise, a model may recognise the other finding: "
    advice += "score the finding only on images that have the other finding."
    return [Finding("never-alone", "warning", f"{sentence}.", {"table": rows}, advice=advice)]


def _ties(names: Sequence[str], truth: Truth, sources: np.ndarray, patients: np.ndarray) -> list[Finding]:
    """Report for each finding what `source_findings` reports for classes.

    A finding is left out if too few patients have it, or too few patients lack it. The last item of the returned list
    is a note on all findings of the images together.
    """
    found: list[Finding] = []
    rows: list[dict[str, Any]] = []
    tied: list[tuple[float, str]] = []
    of_one_source, few = [], []
    for name, column in zip(names, truth.T, strict=True):
        known = ~np.isnan(column)
        within = sorted({*sources[known].tolist()})
        if _few(column, patients):
            few.append(name)
        elif len(within) < 2:
            of_one_source.append(name)
        else:
            labels = np.where(column[known] == 1, name, f"no {name}").tolist()
            cells, table = label_table(labels, sources[known].tolist(), patients[known].tolist())
            tie = association(table, cells, name)
            tied.append((tie.figures["cramers_v"], name))
            has, lacks = table if min(labels) == name else table[::-1]
            rows += [
                {"finding": name, "source": source, "known": int(a + b), "share": float(a / (a + b))}
                for source, a, b in zip(within, has, lacks, strict=True)
            ]
            if tie.severity != "note":  # without its table, whose rows are in the table of all findings
                figures = {key: value for key, value in tie.figures.items() if key != "table"}
                found.append(Finding(f"label-source:{name}", tie.severity, tie.sentence, figures, advice=tie.advice))
            most = has.argmax()
            if _beyond_chance(has[most], has.sum() - has[most], lacks[most], lacks.sum() - lacks[most]):
                found += from_one_source(name, has, within)
    if of_one_source:
        sentence = "Findings known in one source only, which cannot be tested on another source: "
        sentence += f"{_some(of_one_source)}."
        found.append(Finding("independent-source:findings", "warning", sentence, {"findings": of_one_source}))
    sentence = f"{len(tied)} of {count(len(names), 'finding')} were compared between the sources, each by itself"
    sentence += f"; highest Cramér's V: {max(tied)[0]:.2f} ({max(tied)[1]})" if tied else ""
    why = f"not compared, because fewer than {MIN_PATIENTS} patients have them, or lack them"
    sentence += f"; {why}: {_some(few)}" if few else ""
    return [*found, Finding("finding-sources", "note", f"{sentence}.", {"table": rows} if rows else {})]


def _changes(names: Sequence[str], truth: Truth, patients: np.ndarray) -> list[Finding]:
    """Return the note on patients who have a finding in some of their images, and lack it in others."""
    rows: list[dict[str, Any]] = []
    for name, column in zip(names, truth.T, strict=True):
        has, lacks = ({*patients[(column == value) & (patients != "")]} for value in (1, 0))
        if has & lacks:
            rows.append({"finding": name, "patients": len(has), "in_some_images_only": len(has & lacks)})
    if not rows:
        return []
    rows.sort(key=lambda row: -row["in_some_images_only"])
    some = _some([f"{row['finding']} {row['in_some_images_only']:,}" for row in rows])
    sentence = f"Patients who have a finding in some of their images and lack it in others: {some}."
    return [Finding("patient-findings", "note", sentence, {"table": rows}, advice=CAME_OR_WENT)]


def _few(column: np.ndarray, patients: np.ndarray) -> bool:
    """Return whether too few patients have a finding, or lack it; ``column`` is its column of the truth, (N,)."""
    return min(len({*patients[column == value]}) for value in (0, 1)) < MIN_PATIENTS


def _beyond_chance(a: int, b: int, c: int, d: int) -> bool:
    """Return whether the first share, a / (a + b), is above the second, c / (c + d), by more than chance explains."""
    return bool(fisher_exact([[a, b], [c, d]], "greater").pvalue < CHANCE)


def _some(texts: Sequence[str], between: str = ", ") -> str:
    """Return the first few texts, and the number of the others.

    >>> _some(["Edema", "Mass"]), _some(["1", "2", "3", "4", "5", "6", "7"])
    ('Edema, Mass', '1, 2, 3, 4, 5 and 2 more')
    """
    more = len(texts) - MOST_NAMED
    return between.join(texts[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def any_finding(single: Sequence[Record]) -> Finding:
    """Return a note about the checks that need one label per image: which two groups of images they compare.

    ``single`` is from `without_names`.
    """
    having = sum(r.label == SOME_FINDING for r in single)
    sentence = (
        f"Some checks need one label per image: they compare the {count(having, 'image')} with any finding to the "
        f"{len(single) - having:,} without a finding. Each finding is also checked by itself."
    )
    return Finding("any-finding", "note", sentence, {"with": having, "without": len(single) - having})


def odd_column_findings(records: Sequence[Record], names: Sequence[str]) -> list[Finding]:
    """Return a warning for each column that is probably meant as a radiological finding, but has unusable cells.

    Usable cells are 1, 0, -1 or empty. If the labels name the findings, no column is checked, and the list is empty.
    """
    if not {*names} <= {column for record in records for column in record.metadata}:
        return []
    lines = {column: line for column, line in odd_columns(records).items() if column not in names}
    advice = "If the column is meant as a finding, correct these cells."
    return [
        Finding(f"odd-column:{column}", "warning", f"{line[0].upper()}{line[1:]}.", advice=advice)
        for column, line in lines.items()
    ]

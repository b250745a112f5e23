"""Make the report's table "Heads by source".

For each head, the table has its balanced accuracy on each source, and how well its input predicts the source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cvrnet.formatting import interval
from cvrnet.html import Table
from cvrnet.report.headline import independent_sources
from cvrnet.report.results import Results
from cvrnet.runs.layout import INDEPENDENT

Entry = Mapping[str, Any]  # one entry of `cvrnet.scoring.head_scores`

ALL = {"val": "Validation images", "test": "Test images", INDEPENDENT: "Held-back images"}


def head_source_rows(results: Results) -> list[dict[str, Any]]:
    """Return rows with each head's balanced accuracy on each set and source on which heads are compared.

    The list is empty if the data set names no source for any image.
    """
    return [
        {
            "head": head,
            "set": name,
            "source": entry["source"] or "",
            "classes": "|".join(entry["classes"]),
            "images": entry["images"],
            "patients": entry["patients"],
            "balanced_accuracy": score["value"],
            **_ends(score["interval"]),
        }
        for name, _, entry in _places(results)
        for head, score in entry["scores"].items()
    ]


def head_source_table(results: Results) -> Table:
    """Return a table with a row for each head.

    The columns are the sets and sources on which heads are compared and, if the run has a source probe
    (`cvrnet.report.source_probe`), the AUC of the probe for each label.
    """
    places = list(_places(results))
    columns: dict[str, dict[str, str]] = {}  # title -> the cell of each head
    for _, title, entry in places:
        scores = entry["scores"]
        columns[title] = {head: interval(s["value"], *_ends(s["interval"]).values()) for head, s in scores.items()}
    for row in results.probe:
        title = f"{row['label']} ({row['sources'].replace('|', ', ')})" if row["label"] else "Mean of the labels"
        columns.setdefault(title, {})[row["head"]] = interval(*(float(row[key]) for key in ("auc", "low", "high")))
    heads = list(places[0][2]["scores"]) if places else []
    rows = [[head.capitalize(), *(cells.get(head, "") for cells in columns.values())] for head in heads]
    probed = len(columns) - len(places)
    probe = "AUC of predicting the source among images of one label"
    groups = [("", 1), ("Balanced accuracy", len(places)), (probe, probed)]
    return Table(["Head", *columns], rows, [group for group in groups if group[1]])


def _places(results: Results) -> Iterator[tuple[str, str, Entry]]:
    """Yield the groups of images on which heads are compared: name of the set, title, entry of `head_scores`.

    A group of images is of one of three kinds: all images of a set; a source that the model was trained on, if the
    source has two or more classes and is not the only source of the set; or a source that the model was not trained on.
    If the model was trained on none of a set's sources, the group of all images of this set is left out.
    """
    if not results.sources:
        return
    new = independent_sources(results) or []
    for name, scores in results.sets.items():
        named = [entry for entry in scores.get("heads", ()) if entry["source"]]
        for entry in scores.get("heads", ()):
            source, classes = entry["source"], ", ".join(entry["classes"])
            if source is None and not (named and {e["source"] for e in named} <= {*new}):
                yield name, ALL[name], entry
            elif source in new:
                yield name, f"{source}, independent ({classes})", entry
            elif source and len(entry["classes"]) > 1 and len(named) > 1:
                yield name, f"Within {source} ({classes})", entry


def _ends(bounds: list[float] | None) -> dict[str, float | None]:
    low, high = bounds or (None, None)
    return {"low": low, "high": high}

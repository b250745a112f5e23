"""The same exposure more than once: exact copies, and cropped, turned, brightened or re-encoded ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cvrnet.audit.alignment import Alignment, align
from cvrnet.audit.findings import Finding, Severity, count
from cvrnet.audit.local_features import neighbours
from cvrnet.audit.measurements import Measurements
from cvrnet.data import Record

CHUNK = 1000  # pairs
_ACROSS = ("split", "label", "patient", "source")


@dataclass(frozen=True)
class Copy:
    """Two images of one exposure.

    Attributes:
        first: index of an image, smaller than `second`.
        second: index of the other.
        kind: ``file`` (equal bytes), ``pixels`` (equal pixels in different files) or ``near``.
        alignment: how they lie on each other, for ``near``.
    """

    first: int
    second: int
    kind: str
    alignment: Alignment | None = None


def exact_copies(measured: Measurements) -> list[Copy]:
    """Images with equal pixels: each with the first of its kind."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, digest in enumerate(measured.pixel_hash):
        members[digest].append(index)
    return [
        Copy(first, other, "file" if measured.file_hash[first] == measured.file_hash[other] else "pixels")
        for first, *others in members.values()
        for other in others
    ]


def near_copies(measured: Measurements, *, seed: int = 0, workers: int = 2) -> list[Copy]:
    """Images that, laid on each other, agree in their fine details (exact copies left out).

    Candidates share many local features (`neighbours`); each pair of them is then aligned and compared (`align`).
    """
    candidates = {
        (min(first, second), max(first, second), variant)
        for first, second, variant in neighbours(measured.descriptors, measured.n_points, seed=seed)
        if measured.pixel_hash[first] != measured.pixel_hash[second]
    }
    found: dict[tuple[int, int], Alignment] = {}
    ordered = sorted(candidates)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(ordered), CHUNK):
            chunk = ordered[start : start + CHUNK]
            for (*pair, _), alignment in zip(chunk, pool.map(lambda c: _align(measured, *c), chunk), strict=True):
                key = pair[0], pair[1]
                known = found.get(key)
                if alignment and alignment.same and (not known or alignment.correlation > known.correlation):
                    found[key] = alignment
    return [Copy(*pair, "near", alignment) for pair, alignment in sorted(found.items())]


def _align(measured: Measurements, first: int, second: int, variant: str) -> Alignment | None:
    numbers = measured.n_points[first], measured.n_points[second]
    return align(
        measured.thumbnail(first),
        measured.thumbnail(second),
        (np.array(measured.points[first, : numbers[0]]), np.array(measured.points[second, : numbers[1]])),
        (np.array(measured.descriptors[first, : numbers[0]]), np.array(measured.descriptors[second, : numbers[1]])),
        variant,
    )


def clusters(copies: Iterable[Copy], n: int) -> list[list[int]]:
    """Images connected by copies, each cluster in order.

    >>> clusters([Copy(0, 3, "near"), Copy(3, 4, "near"), Copy(1, 2, "file")], 6)
    [[0, 3, 4], [1, 2]]
    """
    pairs = np.array([(copy.first, copy.second) for copy in copies]).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, numbers = connected_components(graph, directed=False)
    members: dict[int, list[int]] = defaultdict(list)
    for index in np.unique(pairs):
        members[int(numbers[index])].append(int(index))
    return list(members.values())


def duplicate_findings(measured: Measurements, *, seed: int = 0, workers: int = 2) -> list[Finding]:
    """Exact and near-duplicates as findings, with the clusters of both."""
    exact, near = exact_copies(measured), near_copies(measured, seed=seed, workers=workers)
    return [
        _finding(measured, exact, "exact-duplicates", "exact copy of another", "exact copies of others"),
        _finding(measured, near, "near-duplicates", "near-duplicate of another", "near-duplicates of others"),
    ]


def _finding(measured: Measurements, copies: list[Copy], code: str, one: str, many: str) -> Finding:
    if not copies:
        return Finding(code, "note", f"No image is an {one}." if "exact" in one else f"No image is a {one}.")
    records = measured.records
    groups = clusters(copies, len(records))
    of_image = {index: number for number, group in enumerate(groups, start=1) for index in group}
    across = {what: sum(len(_values(records, group, what)) > 1 for group in groups) for what in _ACROSS}
    crossing = [f"{number} across {what}s" for what, number in across.items() if number]
    severity: Severity = "severe" if crossing else "warning"
    rows = []
    for copy in copies:
        first, second = records[copy.first], records[copy.second]
        row: dict[str, object] = {"cluster": of_image[copy.first], "first": first.name, "second": second.name}
        row |= {"kind": copy.kind}
        if copy.alignment is not None:
            row |= {
                "correlation": round(copy.alignment.correlation, 3),
                "overlap": round(copy.alignment.overlap, 3),
                "features": copy.alignment.matches,
                "variant": copy.alignment.variant,
            }
        for what in _ACROSS:
            row[f"{what}s"] = "|".join(sorted({_value(first, what), _value(second, what)} - {""}))
        rows.append(row)
    images = sum(map(len, groups))
    return Finding(
        code,
        severity,
        f"{count(images, 'image')} {'is' if images == 1 else 'are'} {one if images == 1 else many}, in "
        f"{count(len(groups), 'cluster')}: {', '.join(crossing) or 'none across splits, labels, patients or sources'}.",
        {"pairs": len(copies), "clusters": [[records[i].name for i in group] for group in groups]}
        | {f"clusters_across_{what}s": number for what, number in across.items()}
        | {"table": rows},
        tuple(records[i].name for group in groups for i in group),
        "Keep one image of each cluster, or give all of them one patient id; correct labels that contradict."
        if crossing
        else "Keep one image of each cluster, so that it does not count twice.",
    )


def _value(record: Record, what: str) -> str:
    return record.patient_id if what == "patient" else getattr(record, what)


def _values(records: list[Record], group: list[int], what: str) -> set[str]:
    """The different values in a cluster; an image without patient id is a patient of its own."""
    if what == "patient":
        return {records[i].patient_id or f"\t{i}" for i in group}
    return {_value(records[i], what) for i in group}

"""Find images of one X-ray exposure: exact copies, and copies that were cropped, rotated, brightened or re-encoded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cvrnet.audit.alignment import Alignment, align
from cvrnet.audit.findings import Finding, grade
from cvrnet.audit.local_features import neighbours
from cvrnet.audit.measurements import Measurements
from cvrnet.data import Record
from cvrnet.data.splits import patient_keys
from cvrnet.formatting import count

CHUNK = 1000  # pairs that are submitted at once, which bounds the memory
MOST_IMAGES = 100_000  # maximum number of images searched for near-duplicates: the time grows with its square
_ACROSS = {"split": "split", "label": "label", "patient": "patient_id", "source": "source"}
"""What all copies of one image should have in common -> the attribute of `Record` that holds it."""


@dataclass(frozen=True)
class Copy:
    """Two images that come from one X-ray exposure, given by their indices."""

    first: int
    second: int  # larger than first
    kind: str  # "file" (equal bytes), "pixels" (equal pixels in different files) or "near"
    alignment: Alignment | None = None  # for near-duplicates only


def exact_copies(measured: Measurements) -> list[Copy]:
    """Find groups of images with equal pixels, and pair each image of a group with the first image of the group."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, facts in enumerate(measured.facts):
        members[facts.pixel_hash].append(index)
    return [
        Copy(first, other, "file" if measured.facts[first].file_hash == measured.facts[other].file_hash else "pixels")
        for first, *others in members.values()
        for other in others
    ]


def near_copies(measured: Measurements, *, seed: int = 0, workers: int = 2) -> list[Copy]:
    """Find pairs of images whose fine details agree after one is aligned with the other; leave out exact copies.

    Candidates are pairs with many local features in common (`neighbours`); each pair is then aligned and compared
    (`align`). If there are more than `MOST_IMAGES` images, this number of images is drawn at random, and only the drawn
    images are searched.
    """
    facts = measured.facts
    n = len(facts)
    images = np.sort(np.random.default_rng(seed).choice(n, min(n, MOST_IMAGES), replace=False))
    similar = neighbours(measured.large["descriptors"], np.array([f.n_points for f in facts]), images, seed=seed)
    ordered = {(min(first, second), max(first, second), variant) for first, second, variant in similar}
    candidates = sorted(c for c in ordered if facts[c[0]].pixel_hash != facts[c[1]].pixel_hash)

    def compare(candidate: tuple[int, int, str]) -> Alignment | None:
        first, second, variant = candidate
        points, descriptors = zip(measured.local_features(first), measured.local_features(second), strict=True)
        return align(measured.thumbnail(first), measured.thumbnail(second), points, descriptors, variant)

    best: dict[tuple[int, int], Alignment] = {}
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(candidates), CHUNK):
            chunk = candidates[start : start + CHUNK]
            for (first, second, _), found in zip(chunk, pool.map(compare, chunk), strict=True):
                known = best.get((first, second))
                if found and found.same and (not known or found.correlation > known.correlation):
                    best[first, second] = found
    return [Copy(first, second, "near", alignment) for (first, second), alignment in sorted(best.items())]


def clusters(copies: Iterable[Copy], n: int) -> list[list[int]]:
    """Group the images (indices below ``n``) that are connected by pairs of copies; the indices in each group ascend.

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
    """Return two results of the audit: one about exact duplicates, and one about near-duplicates."""
    exact, near = exact_copies(measured), near_copies(measured, seed=seed, workers=workers)
    equal = _finding(measured, exact, "exact-duplicates", "an exact copy of another", "exact copies of others")
    similar = _finding(measured, near, "near-duplicates", "a near-duplicate of another", "near-duplicates of others")
    if (n := len(measured.facts)) > MOST_IMAGES:
        searched = f"Only {MOST_IMAGES:,} of the {n:,} images, drawn at random, were compared with one another."
        similar = replace(similar, sentence=f"{similar.sentence} {searched}")
    return [equal, similar]


def _finding(measured: Measurements, copies: list[Copy], code: str, one: str, many: str) -> Finding:
    if not copies:
        return Finding(code, "note", f"No image is {one}.")
    records, patients = measured.records, patient_keys(measured.records)
    groups = clusters(copies, len(records))
    across: dict[str, int] = {}
    for what, attribute in _ACROSS.items():
        values = patients if what == "patient" else [getattr(r, attribute) for r in records]
        across[f"{what}s"] = sum(len({values[i] for i in group}) > 1 for group in groups)
    crossing = [f"{count(number, 'cluster')} with several {what}" for what, number in across.items() if number]
    names = [[records[i].name for i in group] for group in groups]
    advice = "Keep one image of each cluster; otherwise, one exposure counts several times."
    if crossing:
        advice = "Keep one image of each cluster, or give all its images one patient id; correct contradictory labels."
    return Finding(
        code,
        grade(severe=bool(crossing), warning=True),
        f"{count(sum(map(len, groups)), 'image')} are {many}, in {count(len(groups), 'cluster')}: "
        f"{', '.join(crossing) or 'no cluster has several splits, labels, patients or sources'}.",
        {
            "pairs": len(copies),
            "clusters": names,
            **{f"clusters_across_{what}": number for what, number in across.items()},
            "table": _rows(records, copies, groups),
        },
        tuple(name for group in names for name in group),
        advice,
    )


def _rows(records: list[Record], copies: list[Copy], groups: list[list[int]]) -> list[dict[str, object]]:
    """Return a row for each pair of copies."""
    cluster = {index: number for number, group in enumerate(groups, start=1) for index in group}
    rows = []
    for copy in copies:
        first, second = records[copy.first], records[copy.second]
        row: dict[str, object] = {
            "cluster": cluster[copy.first],
            "first": first.name,
            "second": second.name,
            "kind": copy.kind,
        }
        if found := copy.alignment:
            row |= {"correlation": round(found.correlation, 3), "overlap": round(found.overlap, 3)}
            row |= {"features": found.matches, "variant": found.variant}
        for what, attribute in _ACROSS.items():
            row[f"{what}s"] = "|".join(sorted({getattr(first, attribute), getattr(second, attribute)} - {""}))
        rows.append(row)
    return rows

"""What the probes mean for labels and sources: the findings about shortcuts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations

import numpy as np
from sklearn.tree import DecisionTreeClassifier

from cvrnet.audit.findings import Finding, Severity
from cvrnet.audit.measurements import Measurements
from cvrnet.audit.probes import MIN_PATIENTS, NO_DISEASE, WHAT, Probe, probe

SEVERE_AUC = 0.75  # of the interval's lower end, for the class told best, from what holds no lung
MARGIN = 0.05  # above chance: what a fold or two more or less can do
MAX_STRATA = 8

_AWAY = (
    "Bring all images to one size, crop and format before training, and report results within one source; "
    "a model's score must be judged against this one."
)


def label_findings(measured: Measurements, seed: int) -> Iterator[Finding]:
    """Is the label told from what should not matter, in the whole set and within each source?"""
    labels = [r.label for r in measured.records]
    sources = np.array([r.source for r in measured.records])
    probes = [found for name in WHAT if (found := probe(measured, name, labels, seed=seed))]
    for found in probes:
        yield _label_finding(found)
    rule = best_rule(measured)
    if probes and rule is not None:
        yield rule
    for source in sorted(set(sources.tolist())) if len(set(sources)) > 1 else []:
        rows = np.flatnonzero(sources == source)
        inside = [found for name in WHAT if (found := probe(measured, name, labels, rows, seed=seed))]
        if inside:
            yield _summary(inside, f"label-within-source:{source}", f"Within {source or '(no source)'}, the label is")


def source_finding(measured: Measurements, seed: int) -> Finding | None:
    """Is the source told from what should not matter?"""
    sources = [r.source for r in measured.records]
    probes = [found for name in WHAT if (found := probe(measured, name, sources, seed=seed))]
    if not probes:
        return None
    return _summary(probes, "source-probes", "The source is", at_most="note")


def floor_finding(measured: Measurements, seed: int) -> Finding | None:
    """What ridge regression on 32x32 pixels tells: the floor under any model's score, for each pair of groups."""
    labels = [r.label for r in measured.records]
    whole = probe(measured, "pixels", labels, seed=seed)
    if whole is None:
        return None
    groups = [f"{r.source}\t{r.label}" for r in measured.records]
    patients = Counter(
        group for group, _ in {(g, r.patient_id or r.name) for g, r in zip(groups, measured.records, strict=True)}
    )
    names = sorted(name for name, n in patients.most_common(MAX_STRATA) if n >= MIN_PATIENTS)
    rows = [whole.row(first="all classes", second="")]
    for pair in combinations(names, 2) if len(names) > 1 and len({g.partition("\t")[0] for g in names}) > 1 else []:
        told = probe(measured, "pixels", [g if g in pair else "" for g in groups], seed=seed)
        if told is not None:
            rows.append(told.row(first=pair[0].replace("\t", " "), second=pair[1].replace("\t", " ")))
    return Finding(
        "floor",
        "note",
        f"Ridge regression on 32x32 pixels tells {_listed(whole.classes)} apart with balanced accuracy "
        f"{whole.balanced_accuracy:.2f} ({_range(whole.balanced_interval)}): what any model must beat.",
        {**whole.row(), "table": rows},
        advice="Show this figure beside every model's score.",
    )


def best_rule(measured: Measurements) -> Finding | None:
    """The one threshold on one number of the file (size, aspect) that best tells one class from the others."""
    labels = np.array([r.label for r in measured.records])
    height, width = measured.size.T.astype(np.float64)
    numbers = {
        "height": height,
        "width": width,
        "width / height": width / height,
        "longer / shorter side": np.maximum(width / height, height / width),
    }
    best: tuple[float, str, str, float] | None = None
    for label in sorted(set(labels.tolist())):
        truth = labels == label
        if min(truth.sum(), (~truth).sum()) < MIN_PATIENTS:
            continue
        for name, values in numbers.items():
            if not np.ptp(values):
                continue
            stump = DecisionTreeClassifier(max_depth=1, class_weight="balanced").fit(values[:, None], truth)
            right = stump.predict(values[:, None]) == truth
            balanced = (right[truth].mean() + right[~truth].mean()) / 2
            if stump.tree_.node_count > 1 and (best is None or balanced > best[0]):
                above = bool(stump.predict([[values.max()]])[0])
                shown = f"{label} if {name} {'>' if above else '<='} {stump.tree_.threshold[0]:.4g}"
                best = float(balanced), label, shown, float(right.mean())
    if best is None:
        return None
    balanced, label, shown, accuracy = best
    share = float((labels == label).mean())
    severity: Severity = "severe" if balanced >= 0.75 else "warning" if balanced >= 0.65 else "note"
    return Finding(
        "one-rule",
        severity,
        f'The rule "{shown}" alone is right for {accuracy:.0%} of the images (balanced accuracy {balanced:.2f}; '
        f"always the more frequent answer: {max(share, 1 - share):.0%}).",
        {
            "rule": shown,
            "label": label,
            "accuracy": accuracy,
            "balanced_accuracy": balanced,
            "accuracy_of_more_frequent": max(share, 1 - share),
        },
        advice=_AWAY if severity != "note" else "",
    )


def _label_finding(found: Probe) -> Finding:
    severity = _severity(found)
    advice = "" if severity == "note" else _AWAY
    if advice and found.name not in NO_DISEASE:
        advice = "This holds lung too, so some of it may be disease: compare it with the probes that hold none."
    sentence = f"Label {'' if found.excess > MARGIN else 'hardly '}predictable from {WHAT[found.name]} alone: "
    sentence += f"{_auc(found)}; permuted labels {found.permuted:.2f}."
    return Finding(
        f"label-probe:{found.name}",
        severity,
        f"All images are alike in {WHAT[found.name]}." if found.constant else sentence,
        {**found.row(), "table": [found.row(target="label", scope="all")]},
        advice=advice,
    )


def _summary(probes: list[Probe], code: str, start: str, at_most: Severity = "severe") -> Finding:
    """One finding for several probes: the sentence names the strongest of those that hold no lung."""

    def strength(p: Probe) -> tuple[bool, float]:
        return p.excess > MARGIN, p.auc

    strongest = max((p for p in probes if p.name in NO_DISEASE), key=strength)
    other = max((p for p in probes if p.name not in NO_DISEASE), key=strength)
    severity = at_most if at_most == "note" else _severity(strongest)
    target, _, scope = code.partition(":")
    return Finding(
        code,
        severity,
        f"{start} {'' if strongest.excess > MARGIN else 'hardly '}predictable from {WHAT[strongest.name]} alone: "
        f"{_auc(strongest)}; permuted labels {strongest.permuted:.2f}; from {WHAT[other.name]}: {_auc(other)}.",
        {
            "strongest": strongest.name,
            **strongest.row(),
            "table": [p.row(target=target.partition("-")[0], scope=scope or "all") for p in probes],
        },
        advice=_AWAY if severity != "note" else "",
    )


def _severity(found: Probe) -> Severity:
    if found.excess <= MARGIN:
        return "note"
    if found.best_interval[0] >= SEVERE_AUC and found.name in NO_DISEASE:
        return "severe"
    return "warning" if found.name in NO_DISEASE or found.best_interval[0] >= SEVERE_AUC else "note"


def _auc(found: Probe) -> str:
    text = f"AUC {found.auc:.2f} ({_range(found.interval)})"
    if len(found.classes) > 2 and found.excess > MARGIN:
        text += f", of {found.best} {found.best_auc:.2f} ({_range(found.best_interval)})"
    return text


def _range(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.2f}-{interval[1]:.2f}"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}"

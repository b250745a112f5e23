"""Report shortcuts in a data set: what the scores of the probes (simple classifiers) show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from sklearn.tree import DecisionTreeClassifier

from cvrnet.audit.findings import Finding, Severity, grade
from cvrnet.audit.measurements import Measurements
from cvrnet.audit.probes import MIN_PATIENTS, NO_DISEASE, WHAT, Probe, probe, probes
from cvrnet.data.findings import Truth
from cvrnet.data.splits import patient_keys

SEVERE_AUC = 0.75  # a probe without lung is severe if the interval of its best class's AUC starts here or above
MARGIN = 0.05  # an AUC's interval must start more than this above chance; smaller differences can come from the folds
SEVERE_RULE, WARNING_RULE = 0.75, 0.65  # least balanced accuracy of a severe rule, and of a warning (`best_rule`)
MAX_STRATA = 8  # maximum number of groups (images of one source and label) that are compared pair by pair
MAX_FINDINGS = 15  # maximum number of radiological findings that are probed: those with the most patients

_AWAY = (
    "Bring all images to one size, crop and format before training, and report results within one source; "
    "compare a model's score with this score."
)
_LUNG = (
    "The input of this probe contains lung, so disease may explain the score: compare it with the probes without lung."
)


def shortcut_findings(measured: Measurements, seed: int) -> Iterator[Finding]:
    """Report how well features that should not matter predict the label (also within each source) and the source."""
    labels, sources = [r.label for r in measured.records], [r.source for r in measured.records]
    whole = probes(measured, labels, seed=seed)
    yield from map(label_finding, whole)
    if whole and (rule := best_rule(measured)):
        yield rule
    names = sorted(set(sources))
    for source in names if len(names) > 1 else []:
        within = [label if own == source else "" for label, own in zip(labels, sources, strict=True)]
        if inside := probes(measured, within, seed=seed):
            start = f"Within {source or '(no source)'}, the label is"
            yield _summary(
                inside,
                f"label-within-source:{source}",
                start,
                _severity(_strongest(inside)),
                target="label",
                scope=source,
            )
    if found := probes(measured, sources, seed=seed):
        yield _summary(found, "source-probes", "The source is", "note", target="source", scope="all")
    if pixels := [found for found in whole if found.probe == "pixels"]:
        yield _floor_finding(measured, pixels[0], seed)


def finding_probes(measured: Measurements, names: Sequence[str], truth: Truth, seed: int) -> Iterator[Finding]:
    """Report how well features that should not matter predict each radiological finding.

    Only the `MAX_FINDINGS` findings with the most patients are examined. ``truth`` is the result of
    `cvrnet.data.findings.finding_truth`, (N, C).
    """
    patients = np.array(patient_keys(measured.records))
    number = {name: len({*patients[column == 1]}) for name, column in zip(names, truth.T, strict=True)}
    for name in sorted(names, key=lambda name: -number[name])[:MAX_FINDINGS]:
        column = truth[:, names.index(name)]
        targets = np.select([column == 1, column == 0], [name, f"no {name}"], "").tolist()
        if found := probes(measured, targets, seed=seed):
            yield _summary(
                found, f"finding-probes:{name}", f"{name} is", _severity(_strongest(found)), target=name, scope="all"
            )


def best_rule(measured: Measurements) -> Finding | None:
    """Find the threshold on the image's size or aspect that best separates one class from the others.

    The result is None if no threshold separates a class, or if there are too few images.
    """
    labels = np.array([r.label for r in measured.records])
    height, width = np.array([facts.size for facts in measured.facts], np.float64).T
    numbers = {
        "height": height,
        "width": width,
        "width / height": width / height,
        "longer / shorter side": np.maximum(width / height, height / width),
    }
    best = (0.0, "", "", 0.0)  # balanced accuracy, class, rule, accuracy
    for label in sorted(set(labels.tolist())):
        truth = labels == label
        if min(truth.sum(), (~truth).sum()) < MIN_PATIENTS:
            continue
        for name, values in numbers.items():
            stump = DecisionTreeClassifier(max_depth=1, class_weight="balanced").fit(values[:, None], truth)
            right = stump.predict(values[:, None]) == truth
            balanced = float((right[truth].mean() + right[~truth].mean()) / 2)
            if stump.tree_.node_count > 1 and balanced > best[0]:
                sign = ">" if stump.predict([[values.max()]])[0] else "<="
                best = balanced, label, f"{label} if {name} {sign} {stump.tree_.threshold[0]:.4g}", float(right.mean())
    balanced, label, rule, accuracy = best
    if not rule:
        return None
    severity = grade(severe=balanced >= SEVERE_RULE, warning=balanced >= WARNING_RULE)
    share = float((labels == label).mean())
    figures = {"rule": rule, "label": label, "accuracy": accuracy, "balanced_accuracy": balanced}
    figures["accuracy_of_more_frequent"] = frequent = max(share, 1 - share)
    sentence = f'The rule "{rule}" alone is right for {accuracy:.0%} of the images (balanced accuracy {balanced:.2f}; '
    sentence += f"always guessing the more frequent answer is right for {frequent:.0%})."
    return Finding("one-rule", severity, sentence, figures, advice="" if severity == "note" else _AWAY)


def label_finding(found: Probe) -> Finding:
    """Report how well one probe predicts the label, over all images."""
    severity = _severity(found)
    sentence = f"Label {_predictable(found)}: {_auc(found)}; with permuted labels {found.auc_permuted:.2f}."
    if found.auc[1:] == (0.5, 0.5):  # no feature differs between images
        sentence = f"All images are alike in {WHAT[found.probe]}."
    figures = {**found.row(), "table": [found.row(target="label", scope="all")]}
    advice = "" if severity == "note" else _AWAY if found.probe in NO_DISEASE else _LUNG
    return Finding(f"label-probe:{found.probe}", severity, sentence, figures, advice=advice)


def _summary(found: list[Probe], code: str, start: str, severity: Severity, **scope: str) -> Finding:
    """Make one result from several probes; it names the strongest probe without lung, and the strongest with lung.

    The columns in ``scope`` are the first columns of the result's table.
    """
    strongest, other = _strongest(found), _strongest(found, lung=True)
    sentence = f"{start} {_predictable(strongest)}: {_auc(strongest)}; with permuted labels "
    sentence += f"{strongest.auc_permuted:.2f}; "
    sentence += f"from {WHAT[other.probe]}: {_auc(other)}."
    rows = [p.row(**scope) for p in found]
    figures = {"strongest": strongest.probe, **strongest.row(), "table": rows}
    return Finding(code, severity, sentence, figures, advice="" if severity == "note" else _AWAY)


def _floor_finding(measured: Measurements, whole: Probe, seed: int) -> Finding:
    """Report how well ridge regression on 32x32 pixels separates all classes, and each pair of groups.

    A group has the images of one source and label. Only large groups are compared (see `MAX_STRATA`), and only if these
    groups are from several sources.
    """
    groups = [f"{r.source}\t{r.label}" for r in measured.records]
    patients = Counter(group for group, _ in set(zip(groups, patient_keys(measured.records), strict=True)))
    large = sorted(group for group, n in patients.most_common(MAX_STRATA) if n >= MIN_PATIENTS)
    rows = [whole.row(first="all classes", second="")]
    several_sources = len({group.partition("\t")[0] for group in large}) > 1
    for pair in combinations(large, 2) if several_sources else ():
        told = probe(measured, "pixels", [group if group in pair else "" for group in groups], seed=seed)
        if told is not None:
            first, second = (group.replace("\t", " ") for group in pair)
            rows.append(told.row(first=first, second=second))
    *names, last = whole.classes
    sentence = f"Ridge regression on 32x32 pixels separates {', '.join(names)} and {last} with balanced accuracy "
    sentence += f"{whole.balanced_accuracy}: any model must beat this."
    advice = "Show this value beside every model's score."
    return Finding("floor", "note", sentence, {**whole.row(), "table": rows}, advice=advice)


def _strongest(found: list[Probe], lung: bool = False) -> Probe:
    candidates = [p for p in found if (p.probe in NO_DISEASE) != lung]
    return max(candidates, key=lambda p: (p.excess > MARGIN, p.auc.value))


def _severity(found: Probe) -> Severity:
    if found.excess <= MARGIN:
        return "note"
    high, shortcut = found.best_class_auc.low >= SEVERE_AUC, found.probe in NO_DISEASE
    return grade(severe=high and shortcut, warning=high or shortcut)


def _predictable(found: Probe) -> str:
    return f"{'' if found.excess > MARGIN else 'hardly '}predictable from {WHAT[found.probe]} alone"


def _auc(found: Probe) -> str:
    best = f", of {found.best_class} {found.best_class_auc}" if len(found.classes) > 2 and found.excess > MARGIN else ""
    return f"AUC {found.auc}{best}"

"""Make a reporting checklist for a paper: what the files of a run state, and what the author must state.

The checklist has the items of TRIPOD+AI with their numbers (Collins et al. 2024, BMJ 385:e078378), and the items that
CLAIM 2024 adds for imaging (Tejani et al. 2024, Radiol Artif Intell 6:e240300).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from cvrnet.formatting import count, counts, interval, number
from cvrnet.report import headline
from cvrnet.report.outcome_text import event_patients, evidence_sentence, outcome_sentences
from cvrnet.report.results import Results
from cvrnet.text import markdown

AUTHOR = "The author must state: "
Item = tuple[str, str, str]  # topic; numbers of the items in TRIPOD+AI, or "CLAIM" if only CLAIM has the item; text


def checklist(results: Results) -> list[Item]:
    """Return the items of the checklist, in the order in which a paper treats them."""
    return [(topic, numbers, text(results) if callable(text) else AUTHOR + text) for topic, numbers, text in _ITEMS]


def checklist_markdown(results: Results) -> str:
    """Return the checklist as a table in Markdown, for a paper's supplement."""
    lines = [
        "# Reporting checklist (TRIPOD+AI, CLAIM 2024)",
        "",
        "| Item | TRIPOD+AI | Content |",
        "| --- | --- | --- |",
    ]
    for row in checklist(results):
        lines.append(f"| {' | '.join(map(markdown, row))} |")
    return "\n".join(lines) + "\n"


def _trained(results: Results) -> bool:
    return results.kind != "evaluate"


def _sources(results: Results) -> str:
    by_source = Counter(row["source"] for row in results.split) or Counter(results.predictions.sources)
    named = {name: count for name, count in sorted(by_source.items()) if name}
    images = f"{sum(by_source.values()):,} images ({counts(results.run['images'])})"
    where = f"by source: {counts(named)}" if named else "the data set does not name its sources"
    return f"{images}; {where}. {AUTHOR}how and why these sources were chosen, and whom they represent."


def _preparation(results: Results) -> str:
    if not _trained(results):
        channels, height, width = results.run["input_size"]
        return f"Images were resized to {width} x {height} pixels, {channels} channels; the aspect ratio is not kept."
    config = results.run["config"]
    return (
        f"Images were resized to {config['img_size']} x {config['img_size']} pixels, {config['in_chans']} channels, "
        f"filter {config.get('interpolation', 'nearest')}; the aspect ratio is not kept."
    )


def _missing(results: Results) -> str:
    left_out = len(results.run.get("left_out", ()))
    unread = f"{count(left_out, 'image')} could not be used" if left_out else "Every image could be read"
    return f"{unread}; patients: {headline.patients(results)}. {AUTHOR}how other missing data were handled."


def _outcome(results: Results) -> str:
    outcome = results.run.get("outcome")
    if not outcome:
        return f"{AUTHOR}which readers made the labels and how, what the readers knew, and how well they agreed."
    found = " ".join(outcome_sentences(outcome))
    return f"{found} {AUTHOR}how the event was defined and recorded, and whether this was done blinded."


def _sample_size(results: Results) -> str:
    if not results.run.get("outcome"):
        return f"{AUTHOR}how the number of images was chosen."
    return f"{evidence_sentence(*event_patients(results.predictions))} {AUTHOR}how the number of patients was chosen."


def _partition(results: Results) -> str:
    if not _trained(results):
        return f"All images were used to test a trained model ({headline.without_folders(results.run['model'])})."
    held_back = f"; held back: {results.held_back}" if results.held_back else ""
    return f"{', '.join(headline.set_sizes(results))}{held_back}. No patient is in two sets."


def _model(results: Results) -> str:
    name = headline.model_name(results)
    models = 1 if _trained(results) else results.run["models"]
    size = f", {models} models whose probabilities are averaged" if models > 1 else ""
    return f"{name}{size}; the architecture and its arguments are in config.json."


def _initial(results: Results) -> str:
    if not _trained(results):
        return f"{AUTHOR}which weights the training of this model started from."
    origins = results.run.get("pretrained_from") or []
    return f"Initial weights: {', '.join(origins)}." if origins else "Initial weights: random."


def _training(results: Results) -> str:
    if not _trained(results):
        return f"{AUTHOR}how this model was trained (run.json in the folder of the training has the settings)."
    c = results.run["config"]
    epochs = ", ".join(str(len(history)) for history in results.histories)
    return (
        f"{c['optimizer']}, learning rate {c['lr']:g}, batches of {c['batch_size']}, seed {c['seed']}; --freeze "
        f"{c.get('freeze', 0)}; {epochs} of at most {c['epochs']} epochs; the epoch with the best "
        f"{c['monitor']} was kept. All settings are in run.json."
    )


def _imbalance(results: Results) -> str:
    if not _trained(results):
        return f"Images of each {results.noun}: {counts(results.run['images'])}."
    config = results.run["config"]
    if not config["class_weights"]:
        return f"{'Findings' if results.multilabel else 'Classes'} were not weighted in the loss."
    if results.multilabel:
        return (
            "For each finding, the loss of the images with it was multiplied by (images without it) / (images with "
            f"it), at most {config['max_pos_weight']:g}."
        )
    return (
        "The loss of class j was multiplied by N_max / N_j (N_j: number of training images of class j; N_max: the "
        "largest N_j)."
    )


def _performance(results: Results) -> str:
    s, spread = results.scores, results.scores["intervals"]
    parts = []
    macro = [(key, ("macro",)) for key in ("roc_auc", "average_precision")]
    for title, place in macro if results.multilabel else [("accuracy", ()), ("balanced_accuracy", ()), macro[0]]:
        value, bounds = s, spread
        for key in place:
            value, bounds = value[key], bounds[key]
        name = f"{'macro ' if place else ''}{'AUC' if title == 'roc_auc' else title.replace('_', ' ')}"
        parts.append(f"{name} {interval(value[title], *(bounds[title] or (None, None)))}")
    return f"On {s['n']:,} images: {', '.join(parts)}. All tables are in tables/."


def _by_source(results: Results) -> str:
    kind = ("finding", "findings") if results.multilabel else ("source", "sources")
    return "“Each {}” and tables/{}.csv".format(*kind)


def _external(results: Results) -> str:
    names = headline.independent_sources(results)
    if names is None:
        return f"It is not known which sources the model was trained on. {AUTHOR}whether these images are independent."
    if not names:
        return "No named source is new to the model, so these scores may say nothing about other hospitals."
    return f"Sources on which no model was trained: {', '.join(names)}; see {_by_source(results)}."


def _uncertainty(results: Results) -> str:
    bootstrap = results.scores["intervals"]["bootstrap"]
    return (
        f"95 % intervals: percentiles of {number(bootstrap['resamples'])} bootstrap resamples of "
        f"{number(bootstrap['groups'])} patients, each with all of the patient's images; exact binomial intervals for "
        "rates of 0 or 1."
    )


def _limits(results: Results) -> str:
    severe = headline.severe_findings(results.audit)
    if not results.audit:
        return f"The data set was not audited. {AUTHOR}the limitations."
    found = " ".join(severe) if severe else "The audit found no severe problem in the data set."
    return f"{found} {AUTHOR}the other limitations."


def _software(results: Results) -> str:
    return ", ".join(f"{name} {version}" for name, version in results.run["versions"].items()) + "."


def _failures(results: Results) -> str:
    p = results.predictions
    if results.multilabel:
        return "How often each finding is missed or wrongly predicted: tables/operating_points.csv."
    wrong = int((p.guesses != p.labels).sum())
    return (
        f"{wrong:,} of {len(p.labels):,} predictions are wrong; tables/mistakes.csv lists them, most confident first."
    )


def _output(results: Results) -> str:
    named = "findings" if results.multilabel else "classes"
    return f"Probabilities of the {named}; thresholds are in “Operating points”, if the report has this section."


def _updating(results: Results) -> str:
    if results.run["kind"] != "calibrate":
        return f"{AUTHOR}whether the model was recalibrated or changed after its evaluation."
    made = results.run["calibration"]
    return (
        f"Recalibrated ({made['method']}) with {made['images']:,} images of {made['patients']:,} patients. "
        f"{AUTHOR}whether the model was changed in another way."
    )


_ITEMS: list[tuple[str, str, Callable[[Results], str] | str]] = [
    ("Title and abstract", "1, 2", "what the study develops or evaluates, for whom, and a structured summary."),
    ("Background", "3a-3c", "the clinical question, the intended users, and known inequalities in health."),
    ("Objectives", "4", "the objectives, and whether a model is developed, evaluated, or both."),
    ("Design", "CLAIM", "whether the study is prospective or retrospective, and its goal."),
    ("Data sources", "5a", _sources),
    ("Dates, setting, eligibility", "5b, 6a-6c", "when, where and how patients were included, and their treatment."),
    ("De-identification", "CLAIM", "how the images were de-identified."),
    ("Image acquisition", "CLAIM", "the scanners and protocols."),
    ("Data preparation", "7, 9a-9c", _preparation),
    ("Outcome (reference standard)", "8a-8c", _outcome),
    ("Sample size", "10", _sample_size),
    ("Missing data", "11", _missing),
    ("Partition", "12a", _partition),
    ("Model", "12c, 22", _model),
    ("Initial weights", "12c", _initial),
    ("Training", "12c", _training),
    ("Differences between clusters", "12d, 23b", lambda results: f"Scores by source: {_by_source(results)}."),
    ("Performance measures", "12e", _uncertainty),
    ("Model updating", "12f, 24", _updating),
    ("Class imbalance", "13", _imbalance),
    ("Fairness", "14", "which groups of patients were compared (see “Subgroups”), and why."),
    ("Model output", "15", _output),
    ("Training against evaluation", "16", _external),
    ("Ethics", "17", "the approval, and whether patients consented."),
    ("Funding, interests, protocol, registration", "18a-18d", "funding, interests, protocol and registration."),
    ("Data and code", "18e, 18f", "where the data and the analysis code can be found. This run's code: cvrnet."),
    ("Software", "CLAIM", _software),
    ("Patient involvement", "19", "whether patients and the public were involved."),
    ("Participants", "20a-20c", "the flow of participants and their characteristics in each set."),
    ("Performance", "21, 23a", _performance),
    ("Failures", "CLAIM", _failures),
    ("Explanation", "CLAIM", lambda _: "A Grad-CAM map, if shown, shows evidence for a prediction, not a reason."),
    ("Interpretation", "25", "what the results mean, with regard to fairness and earlier studies."),
    ("Limitations", "26", _limits),
    ("Usability", "27a-27c", "how poor input is handled, who may use the model, and the next steps."),
]  # fmt: skip

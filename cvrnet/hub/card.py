"""Make the model card (README.md with the Hub's metadata); the card's text is in templates/card.md.jinja."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import huggingface_hub
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index
from jinja2 import UndefinedError
from torch import nn

from cvrnet.data.outcomes import Outcome
from cvrnet.data.preprocessing import outcome_note
from cvrnet.encoders import hub_repository
from cvrnet.html import template_environment
from cvrnet.hub.card_sentences import calibration_sentence, outcome_sentence
from cvrnet.hub.merge import mark_card
from cvrnet.metrics.decisions import Decisions
from cvrnet.metrics.operating_points import threshold_warnings
from cvrnet.runs.checkpoint import checkpoint_task
from cvrnet.runs.layout import INDEPENDENT
from cvrnet.text import markdown

_SCORES: dict[str, tuple[str, tuple[str, ...]]] = {
    "accuracy": ("Accuracy", ("accuracy",)),
    "f1": ("F1 (macro)", ("macro", "f1")),
    "recall": ("Sensitivity (macro)", ("macro", "recall")),
    "precision": ("Precision (macro)", ("macro", "precision")),
    "roc_auc": ("AUC (macro, one class against the others)", ("macro", "roc_auc")),
    "brier_score": ("Brier score", ("brier_score",)),
    "expected_calibration_error": ("Expected calibration error", ("expected_calibration_error",)),
}
"""The Hub's name of a metric -> its title in the card, and the keys that lead to it in the scores."""
_FINDING_SCORES: dict[str, tuple[str, tuple[str, ...]]] = {
    key: (f"{title}, mean over the findings", ("macro", key))
    for key, title in (
        ("roc_auc", "AUC"),
        ("average_precision", "Average precision"),
        ("brier_score", "Brier score"),
        ("expected_calibration_error", "Expected calibration error"),
    )
}
"""The metrics of a model of findings, in the form of `_SCORES`."""
_TOPICS = ("chest-x-ray", "radiology", "medical", "image-classification")
_FINDING_COLUMNS = ("positives", "roc_auc", "average_precision")
_CLASS_SCORES = ("support", "sensitivity", "specificity", "ppv", "npv", "roc_auc")
_SETTINGS = ("epochs", "batch_size", "optimizer", "lr", "img_size", "class_weights", "pretrained", "seed")
DEFAULT_LICENSE = "apache-2.0"  # license of a new repository, if the user chooses none

_templates = template_environment("cvrnet.hub", html=False)  # the templates are Markdown and Python


class _Evaluation(NamedTuple):
    """Scores, and the data set and split that were scored; in a cross-validation, scores are means over the folds."""

    dataset: str
    split: str
    scores: Mapping[str, Any]

    @property
    def shown(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """The scores that the card shows: `_SCORES` or `_FINDING_SCORES`."""
        return _FINDING_SCORES if "per_finding" in self.scores else _SCORES


def render(template: str, **facts: Any) -> bytes:
    """Render a template from this package's folder ``templates``, filled in with these values; return UTF-8 bytes.

    Raises:
        LookupError: A value is missing, for instance because a file of the run is damaged.
    """
    try:
        return _templates.get_template(template).render(facts).encode()
    except UndefinedError as error:
        raise LookupError(error.message) from error


_templates.filters["markdown"] = markdown


def render_card(
    repo: str,
    model: nn.Module,
    *,
    run: Mapping[str, Any],
    config: Mapping[str, Any],
    decisions: Decisions,
    best: str,
    folds: Mapping[str, Mapping[str, Any]],
    metrics: Mapping[str, Any],
    summary: Mapping[str, Any],
    severe: Sequence[str] | None,
    marked: Mapping[str, float],
    files: Collection[str],
    license: str,
) -> bytes:
    """Return README.md as UTF-8 bytes, made from the run's files without private data.

    Args:
        repo: ``user/repo``.
        model: The model in ``main``: the model of the branch `best`, or of a single training.
        run: run.json without private data.
        config: The model's config.json.
        decisions: The model's operating points, prediction sets and limits of uncertainty.
        best: The branch whose model is also in ``main``; "" for a single training.
        folds: Branch -> the content of the fold's metrics.json; empty for a single training.
        metrics: The content of the metrics.json of a single training; empty for a run with folds.
        summary: The content of summary.json.
        severe: The audit's sentences about severe problems; None if the run was not audited.
        marked: For each set of images (such as ``val``), the share of its images that are marked as unusual.
        files: The names of the other files in ``main``.
        license: The license that the user chose; "" for the default.
    """
    run = {"data": "", "images": {}, "source": {}, "versions": {}, "pretrained_from": [], "calibration": {}, **run}
    evaluations = _evaluations(run, metrics, summary)
    per_fold = summary.get("folds") or [scores["test"] for scores in folds.values() if "test" in scores]
    pooled = summary.get("pooled") or (evaluations[0].scores if evaluations and not per_fold else {})
    settings = {key: run.get("config", {}).get(key) for key in _SETTINGS}
    architecture, data = str(config["architecture"]), str(run["data"])
    cfg: Any = model.pretrained_cfg
    in_transformers = cfg["input_size"][0] == 3  # transformers gives every model three channels
    metadata = ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        license=license or DEFAULT_LICENSE,
        tags=["timm", *(["transformers"] if in_transformers else []), "cvrnet", architecture, *_TOPICS],
        base_model=_base_models(run.get("config", {}), model) or None,
        datasets=[data.removeprefix("hfds:")] if data.startswith("hfds:") else None,
    )
    metadata["model-index"] = _model_index(repo.partition("/")[2], evaluations) or None
    card = render(
        "card.md.jinja",
        repo=repo,
        in_transformers=in_transformers,
        metadata=metadata.to_yaml(),
        run=run,
        config=config,
        encoders=getattr(model, "encoder_names", ()),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        best=best,
        branches=list(folds),
        marked=marked,
        calibrated=calibration_sentence(run["calibration"]),
        outcome=outcome_sentence(Outcome.from_note(outcome_note(cfg))),
        scores=_score_table(per_fold, evaluations),
        class_rows=[
            [name, *(_shown(scores.get(key)) for key in _CLASS_SCORES)]
            for name, scores in pooled.get("per_class", {}).items()
        ],
        finding_rows=[
            [name, *(_shown(scores.get(key)) for key in _FINDING_COLUMNS)]
            for name, scores in pooled.get("per_finding", {}).items()
        ],
        multilabel=checkpoint_task(model) == "multilabel",
        point_rows=[
            [point.name, point.class_name, *map(_shown, (point.threshold, point.sensitivity, point.specificity))]
            for point in decisions.operating_points
        ],
        has_sets=decisions.prediction_sets is not None and decisions.abstention is not None,
        point_warnings=threshold_warnings(decisions.operating_points),
        files=files,
        severe=severe,
        settings={key: value for key, value in settings.items() if value is not None},
    )
    return mark_card(card.decode()).encode()


def _base_models(config: Mapping[str, Any], model: nn.Module) -> list[str]:
    """Return the Hub repositories of the pretrained weights from which training started."""
    name = str(config.get("model", ""))
    if name.startswith("hf-hub:"):
        return [name.removeprefix("hf-hub:").partition("@")[0]]
    if not config.get("pretrained") or name == "local-dir":
        return []
    names: Any = config.get("encoders") or getattr(model, "encoder_names", None) or [name]
    files = config.get("encoder_weights", ())
    if files:  # each is FILE for a single encoder, or NAME=FILE
        names = [name for name in names if len(names) > 1 and not any(f.startswith(f"{name}=") for f in files)]
    return [repository for repository in map(hub_repository, names) if repository]


def _evaluations(run: Mapping[str, Any], metrics: Mapping[str, Any], summary: Mapping[str, Any]) -> list[_Evaluation]:
    """Return the evaluations of a run; in a cross-validation, the evaluation on the folds comes first."""
    data = str(run["data"]).removeprefix("hfds:") or "the run's data set"
    source = f"{run.get('test_source')} (a source that was kept for testing)"
    if summary:
        outside = summary.get(INDEPENDENT)
        inside = [_Evaluation(data, "test", summary["mean_std"])]
        return [*inside, _Evaluation(source, "test", outside["mean_std"])] if outside else inside
    for name in (INDEPENDENT, "test"):  # "test": runs of version 0.1
        if name in metrics:
            return [_Evaluation(source if run.get("test_source") else data, "test", metrics[name])]
    return [_Evaluation(data, "validation", metrics["val"])] if "val" in metrics else []


def _model_index(name: str, evaluations: Sequence[_Evaluation]) -> list[dict[str, Any]]:
    """Return the metadata ``model-index``.

    Each evaluation is converted by itself, because huggingface_hub would merge the scores on different data sets.
    """
    results = []
    for evaluation in evaluations:
        index = eval_results_to_model_index(name, _eval_results(evaluation))
        results += [result for entry in index for result in entry.get("results", ())]
    return [{"name": name, "results": results}] if results else []


def _eval_results(evaluation: _Evaluation) -> list[EvalResult]:
    results = []
    for metric, (title, place) in evaluation.shown.items():
        value = _at(evaluation.scores, place)
        if isinstance(value, Mapping):
            value, title = value["mean"], f"{title}, mean of {value['n']} folds"
        if value is not None:
            result = EvalResult(
                task_type="image-classification",
                task_name="Image classification",
                dataset_type="chest-radiographs",
                dataset_name=evaluation.dataset,
                dataset_split=evaluation.split,
                metric_type=metric,
                metric_name=title,
                metric_value=float(value),
            )
            results.append(result)
    return results


def leaderboard_entries(
    run: Mapping[str, Any], metrics: Mapping[str, Any], summary: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the content of ``.eval_results/cvrnet.yaml``: the card's scores, for the data set's leaderboard.

    In a cross-validation, scores on a source that was kept for testing are left out. In an entry, ``task_id`` is the
    metric's name. The list is empty if the data set is not on the Hub (``hfds:``), or the installed huggingface_hub
    has no class ``EvalResultEntry``.
    """
    data = str(run.get("data", ""))
    if not data.startswith("hfds:") or not hasattr(huggingface_hub, "EvalResultEntry"):
        return []
    results = [result for evaluation in _evaluations(run, metrics, summary)[:1] for result in _eval_results(evaluation)]
    entries = [
        huggingface_hub.EvalResultEntry(
            dataset_id=data.removeprefix("hfds:"),
            task_id=result.metric_type,
            value=result.metric_value,
            notes=f"{result.metric_name}; {result.dataset_split} images",
        )
        for result in results
    ]
    return huggingface_hub.eval_result_entries_to_yaml(entries)


def _score_table(folds: Sequence[Mapping[str, Any]], evaluations: Sequence[_Evaluation]) -> dict[str, Any] | None:
    """Return the card's table of scores; None if there are no scores.

    For a cross-validation, it has a row for each fold, then rows of means. For a single model, it has a row for each
    score.
    """
    shown = next((evaluation.shown for evaluation in evaluations), _SCORES)
    titles, places = zip(*shown.values(), strict=True)
    if folds:
        rows = [[number, f"{scores['n']:,}", *_cells(scores, places)] for number, scores in enumerate(folds, start=1)]
        names = ["mean ± sd", *(evaluation.dataset for evaluation in evaluations[1:])]
        rows += [[name, "", *_cells(mean.scores, places)] for name, mean in zip(names, evaluations, strict=False)]
        head = ["fold", "images", *(title.partition(" (macro,")[0].partition(", mean over")[0] for title in titles)]
        return {
            "head": head,
            "rows": rows,
            "note": "Each model is tested on the fold that was left out of its training.",
        }
    if evaluations:
        dataset, split, scores = evaluations[0]
        note = f"On the {scores['n']:,} {split} images of {dataset}."
        return {"head": ["", ""], "rows": list(zip(titles, _cells(scores, places), strict=True)), "note": note}
    return None


def _cells(scores: Mapping[str, Any], places: Sequence[Sequence[str]]) -> list[str]:
    return [_shown(_at(scores, place)) for place in places]


def _at(scores: Mapping[str, Any], place: Sequence[str]) -> Any:
    value: Any = scores
    for key in place:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _shown(value: Any) -> str:
    """Format a number, or a mean and standard deviation, for a table."""
    if isinstance(value, Mapping):
        return "–" if value["mean"] is None else f"{value['mean']:.3f} ± {value['std']:.3f}"
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"

"""The model card: README.md with the metadata that the Hub understands, written from the run's own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from cvrnet.hub.redact import harmless_name

_HEADLINE = {
    "accuracy": ("Accuracy", ("accuracy",)),
    "f1": ("F1 (macro)", ("macro", "f1")),
    "recall": ("Sensitivity (macro)", ("macro", "recall")),
    "precision": ("Precision (macro)", ("macro", "precision")),
    "roc_auc": ("AUC (macro, one class against the others)", ("macro", "roc_auc")),
    "brier_score": ("Brier score", ("brier_score",)),
    "expected_calibration_error": ("Expected calibration error", ("expected_calibration_error",)),
}
"""The Hub's name of a metric to its name for people and its place among the scores."""

_CITATION = """\
@article{hasan2020cvrnet,
  title   = {{CVR-Net}: A deep convolutional neural network for coronavirus recognition from chest radiography images},
  author  = {Hasan, Md. Kamrul and Alam, Md. Ashraful and Elahi, Md. Toufick E and Roy, Shidhartho and
             Wahid, Sifat Redwan},
  journal = {arXiv preprint arXiv:2007.11993},
  year    = {2020}
}
@article{hasan2020challenges,
  title   = {Challenges of Deep Learning Methods for {COVID-19} Detection Using Public Datasets},
  author  = {Hasan, Md. Kamrul and Alam, Md. Ashraful and Dahal, Lavsen and Elahi, Md. Toufick E and Roy, Shidhartho and
             Wahid, Sifat Redwan and Mart{\\'i}, Robert and Khanal, Bishesh},
  journal = {medRxiv},
  doi     = {10.1101/2020.11.07.20227504},
  year    = {2020}
}
"""


@dataclass(frozen=True)
class Facts:
    """What a card tells.

    Attributes:
        repo: ``user/repo``.
        run: run.json as it is pushed.
        config: config.json of the best fold.
        encoders: Names of a CVR-Net's encoders; empty for other models.
        base_models: Hub repositories of the weights that training started from.
        parameters: Of one model.
        best: Branch of the best fold; "" for a run of a single model.
        folds: Each fold's branch and metrics.json.
        metrics: metrics.json of a single model.
        summary: summary.json of a cross-validation.
        severe: Sentences of the audit's severe findings; None where the data set was not audited.
        figures: Names of the figures that are pushed.
        license: The Hub's name of the license.
    """

    repo: str
    run: Mapping[str, Any]
    config: Mapping[str, Any]
    encoders: Sequence[str]
    base_models: Sequence[str]
    parameters: int
    best: str
    folds: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    severe: Sequence[str] | None = None
    figures: Sequence[str] = ()
    license: str = "apache-2.0"


def render_card(facts: Facts) -> str:
    """README.md."""
    parts = [
        f"---\n{_metadata(facts).to_yaml()}\n---",
        f"# {facts.repo.partition('/')[2]}",
        _introduction(facts),
        "> **Research software, not a medical device.** It must not be used for diagnosis or for any decision about a "
        "patient.",
        _how_to_load(facts),
        _results(facts),
        _limits(facts),
        _training(facts),
        f"## Citation\n\n```bibtex\n{_CITATION}```",
        "*This card was written by `cvrnet push` from the run's own files.*",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metadata(facts: Facts) -> ModelCardData:
    data = str(facts.run.get("data", ""))
    architecture = str(facts.config["architecture"])
    return ModelCardData(
        model_name=facts.repo.partition("/")[2],
        library_name="timm",
        pipeline_tag="image-classification",
        license=facts.license,
        tags=[
            "timm",
            "transformers",
            "cvrnet",
            architecture,
            "chest-x-ray",
            "radiology",
            "medical",
            "image-classification",
        ],
        base_model=list(facts.base_models) or None,
        datasets=[data.removeprefix("hfds:")] if data.startswith("hfds:") else None,
        eval_results=list(_eval_results(facts)) or None,
    )


@dataclass(frozen=True)
class _Evaluation:
    """Scores and the images they are of; of a cross-validation, each score is a mean over the folds."""

    dataset: str
    split: str
    scores: Mapping[str, Any]


def _evaluations(facts: Facts) -> list[_Evaluation]:
    data = str(facts.run.get("data", "")).removeprefix("hfds:") or "the run's data set"
    source = f"{facts.run.get('test_source')} (a source that was kept for testing)"
    if facts.summary:
        inside = [_Evaluation(data, "test", facts.summary["mean_std"])]
        outside = facts.summary.get("independent")
        return [*inside, _Evaluation(source, "test", outside["mean_std"])] if outside else inside
    if "test" in facts.metrics:
        return [_Evaluation(source if facts.run.get("test_source") else data, "test", facts.metrics["test"])]
    return [_Evaluation(data, "validation", facts.metrics["val"])] if "val" in facts.metrics else []


def _eval_results(facts: Facts) -> list[EvalResult]:
    results = []
    for evaluation in _evaluations(facts):
        for metric, (title, place) in _HEADLINE.items():
            value = _at(evaluation.scores, place)
            if isinstance(value, Mapping):
                value, title = value["mean"], f"{title}, mean of {value['n']} folds"
            if value is None:
                continue
            results.append(
                EvalResult(
                    task_type="image-classification",
                    task_name="Image classification",
                    dataset_type="chest-radiographs",
                    dataset_name=evaluation.dataset,
                    dataset_split=evaluation.split,
                    metric_type=metric,
                    metric_name=title,
                    metric_value=float(value),
                )
            )
    return results


def _at(scores: Mapping[str, Any], place: Sequence[str]) -> Any:
    value: Any = scores
    for key in place:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _introduction(facts: Facts) -> str:
    classes = ", ".join(facts.run["classes"])
    encoders = " and ".join(facts.encoders)
    network = f"`{facts.config['architecture']}`" + (f" with the encoders {encoders}" if encoders else "")
    size = "x".join(map(str, facts.config["pretrained_cfg"]["input_size"]))
    text = (
        f"A classifier of chest radiographs into {classes}: {network}, {facts.parameters / 1e6:.1f} million "
        f"parameters, images of {size} (channels, height, width), for [timm](https://github.com/huggingface/pytorch-image-models)."
    )
    if facts.folds:
        text += (
            f" One branch a fold ({', '.join(f'`{name}`' for name in facts.folds)}); `main` holds `{facts.best}`, the "
            "one with the highest validation accuracy. `run.json` records the commit of each."
        )
    return text


def _how_to_load(facts: Facts) -> str:
    repo = facts.repo
    one = f"{repo}@{facts.best}" if facts.best else repo
    what = "all folds as an ensemble" if facts.folds else "the model"
    return f"""## How to load

`pip install cvrnet`, then `import cvrnet` first: it registers the architecture.

```python
import cvrnet  # first: registers the architecture with timm
import timm
from cvrnet import Predictor

predictor = Predictor.from_pretrained("hf-hub:{repo}")  # {what}
for prediction in predictor(["chest.png"]):
    print(prediction.label, prediction.probabilities)

model = timm.create_model("hf-hub:{one}", pretrained=True).eval()  # one model, for plain timm
transform = timm.data.create_transform(**timm.data.resolve_data_config(model.pretrained_cfg))
print(model.pretrained_cfg["label_names"])
```

On the command line, and with transformers (after `import cvrnet`):

```bash
cvrnet predict hf-hub:{repo} chest.png
cvrnet pull {repo}
```

```python
import cvrnet
from transformers import pipeline

print(pipeline("image-classification", model="{repo}")("chest.png"))
```"""


def _results(facts: Facts) -> str:
    folds = facts.summary.get("folds") or [m["test"] for m in facts.folds.values() if "test" in m]
    evaluations = _evaluations(facts)
    parts = ["## Results"]
    if folds:
        parts += [_fold_table(facts, folds), "Each fold's model is tested on the fold that it has not seen."]
    elif evaluations:
        scores = evaluations[0].scores
        cells = [(title, _number(_at(scores, place))) for title, place in _HEADLINE.values()]
        parts.append("\n".join(["| | |", "| --- | ---: |", *(f"| {title} | {cell} |" for title, cell in cells)]))
        parts.append(f"On the {scores['n']:,} {evaluations[0].split} images of {evaluations[0].dataset}.")
    else:
        parts.append("No evaluation was recorded with this run.")
    scores = facts.summary.get("pooled") or (evaluations[0].scores if evaluations and not folds else {})
    if scores.get("per_class"):
        parts.append(_class_table(scores["per_class"]))
    if "confusion_matrix.png" in facts.figures:
        parts.append("![Confusion matrix](figures/confusion_matrix.png)")
    return "\n\n".join(parts)


def _fold_table(facts: Facts, folds: Sequence[Mapping[str, Any]]) -> str:
    columns = list(_HEADLINE.values())
    lines = ["| fold | images | " + " | ".join(title.partition(" (macro,")[0] for title, _ in columns) + " |"]
    lines.append("| --- |" + " ---: |" * (len(columns) + 1))
    for number, scores in enumerate(folds, start=1):
        cells = " | ".join(_number(_at(scores, place)) for _, place in columns)
        lines.append(f"| {number} | {scores['n']:,} | {cells} |")
    for evaluation, name in zip(_evaluations(facts), ("mean ± sd", ""), strict=False):
        cells = " | ".join(_spread(_at(evaluation.scores, place)) for _, place in columns)
        lines.append(f"| {name or evaluation.dataset} | | {cells} |")
    return "\n".join(lines)


def _class_table(classes: Mapping[str, Mapping[str, Any]]) -> str:
    columns = ("support", "sensitivity", "specificity", "ppv", "npv", "roc_auc")
    head = "| class | images | sensitivity | specificity | PPV | NPV | AUC |\n| --- |" + " ---: |" * len(columns)
    rows = [f"| {name} | " + " | ".join(_number(s.get(c)) for c in columns) + " |" for name, s in classes.items()]
    return "\n".join([head, *rows])


def _limits(facts: Facts) -> str:
    lines = [
        "## Intended use and limits",
        "For research on classifiers of chest radiographs, and to repeat the run's results. It always answers with one "
        f"of its classes ({', '.join(facts.run['classes'])}), for any image, also for one that is no frontal chest "
        "radiograph. Sensitivity and specificity hold for images from where the training images came from; elsewhere "
        "they have to be measured anew. Where a class comes from one source only, a model may tell sources apart and "
        "not diseases, and no figure above would show it.",
    ]
    if facts.severe is None:
        lines.append("**The data set was not audited** (`cvrnet audit`): what its figures can show is not known.")
    elif facts.severe:
        found = "\n".join(f"- {sentence}" for sentence in facts.severe)
        lines.append(
            f"**Severe findings of the data set's audit** (`cvrnet audit`), which speak against its figures:\n\n{found}"
        )
    else:
        lines.append("The data set's audit (`cvrnet audit`) had no severe finding.")
    return "\n\n".join(lines)


def _training(facts: Facts) -> str:
    run = facts.run
    lines = ["## Training"]
    if "data" in run:
        lines.append(f"Data set: `{run['data'] if run['data'].startswith('hfds:') else harmless_name(run['data'])}`.")
    if "images" in run:
        counts = ", ".join(f"{count:,} {name}" for name, count in run["images"].items())
        lines.append(f"Images: {counts}.")
    if "source" in run:
        lines.append(f"Converted from the Keras checkpoint with the SHA-256 `{run['source'].get('sha256', '')}`.")
    shown = ("epochs", "batch_size", "optimizer", "lr", "img_size", "class_weights", "pretrained", "seed")
    settings = {key: run.get("config", {}).get(key) for key in shown if run.get("config", {}).get(key) is not None}
    if settings:
        lines.append(
            "Protocol: " + ", ".join(f"{key} {value}" for key, value in settings.items()) + "; all in `run.json`."
        )
    versions = ", ".join(f"{name} {value}" for name, value in run.get("versions", {}).items())
    return "\n\n".join([*lines, f"Versions: {versions}."] if versions else lines)


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _spread(value: Any) -> str:
    return (
        "–" if not isinstance(value, Mapping) or value["mean"] is None else f"{value['mean']:.3f} ± {value['std']:.3f}"
    )

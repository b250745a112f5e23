"""From a run folder to the files of each branch, as they are pushed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvrnet.encoders import hub_repository
from cvrnet.errors import UserError
from cvrnet.hub.card import Facts, render_card
from cvrnet.hub.redact import (
    FIGURES,
    check_harmless,
    patient_key,
    public_figure,
    public_json,
    public_run,
    public_scores,
    public_table,
)
from cvrnet.runs.checkpoint import load_checkpoint
from cvrnet.runs.hub_download import COMMITS, RUN
from cvrnet.runs.layout import CONFIG, WEIGHTS

Files = dict[str, bytes | Path]
"""Name in the repository to content; the weights stay where they are."""
_AUDIT, _METRICS, _SUMMARY = "audit.json", "metrics.json", "summary.json"


@dataclass(frozen=True)
class Staged:
    """A run, ready to push.

    Attributes:
        run: run.json as it is pushed, but for the folds' commits.
        main: Files of ``main``, without run.json.
        folds: Branch to files, of the folds that are pushed.
    """

    run: dict[str, Any]
    main: Files
    folds: dict[str, Files]

    def main_files(self, commits: Mapping[str, str]) -> Files:
        """All files of ``main``, with the folds' commits in run.json."""
        ordered = dict(sorted(commits.items(), key=lambda item: int(item[0].removeprefix("fold-"))))
        return {RUN: public_json(self.run | ({COMMITS: ordered} if ordered else {})), **self.main}


def stage_run(
    run: Path, repo: str, folds: Sequence[int] = (), *, with_predictions: bool = False, license: str = "apache-2.0"
) -> Staged:
    """Collect, clean and check what is pushed of a run; each model is loaded once, so that nothing broken is pushed.

    Args:
        run: The run folder.
        repo: ``user/repo``, for the card.
        folds: Numbers of the folds to push; all if empty.
        with_predictions: Also split.csv and predictions.csv, with hashed paths and patient ids.
        license: The Hub's name of the license.

    Raises:
        UserError: It is no run, lacks a fold, or something in it would tell a local path.
    """
    if not (run / RUN).is_file():
        raise UserError(f"{run} is not a run: it has no {RUN}; expected the folder of a training or cross-validation")
    description = public_run(_read(run / RUN))
    if "classes" not in description:
        raise UserError(f"{run / RUN} names no classes; expected the {RUN} of a training or cross-validation")
    chosen = _choose(run, folds)
    key = patient_key(run) if with_predictions else None
    metrics = {name: _scores(run / name / _METRICS) for name in chosen}
    best = _best(metrics)
    for name in chosen:
        if name != best:
            load_checkpoint(run / name)
    model: Any = load_checkpoint(run / best)
    staged = {name: {**_common_files(run / name, key), **_checkpoint_files(run / name)} for name in chosen}
    main = {**_common_files(run, key), **_checkpoint_files(run / best)}
    facts = Facts(
        repo,
        description,
        _read(run / best / CONFIG),
        list(getattr(model, "encoder_names", ())),
        _base_models(description, model),
        sum(parameter.numel() for parameter in model.parameters()),
        best,
        metrics,
        {} if chosen else _scores(run / _METRICS),
        _scores(run / _SUMMARY),
        _severe(run),
        [Path(name).name for name in main if name.endswith(".png")],
        license,
    )
    main["README.md"] = render_card(facts).encode()
    for files in (main, *staged.values()):
        check_harmless(files, run)
    check_harmless({RUN: public_json(description)}, run)
    return Staged(description, main, staged)


def _choose(run: Path, folds: Sequence[int]) -> list[str]:
    """Branches of the folds to push; none for a run of a single model."""
    there = sorted(int(p.parent.name.removeprefix("fold-")) for p in run.glob(f"fold-*/{CONFIG}"))
    if not there:
        if folds:
            raise UserError(f"{run} is a single model, without folds; leave --fold out")
        if not (run / CONFIG).is_file():
            raise UserError(f"{run} holds no trained model yet: it has neither {CONFIG} nor fold-*/{CONFIG}")
        return []
    if missing := sorted(set(folds) - set(there)):
        raise UserError(f"{run} has no trained fold {missing[0]}; it has {', '.join(map(str, there))}")
    return [f"fold-{number}" for number in (sorted(set(folds)) or there)]


def _best(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """The fold with the highest validation accuracy, then the lowest validation loss: the test folds choose nothing."""

    def rank(name: str) -> tuple[float, float]:
        val = metrics[name].get("val", {})
        return -(val.get("accuracy") or 0.0), val.get("log_loss") or 0.0

    return min(metrics, key=rank, default="")


def _checkpoint_files(folder: Path) -> Files:
    """Weights, and config.json as transformers' timm wrapper wants it: the number of classes in one place only."""
    config = _read(folder / CONFIG)
    config["model_args"] = {key: value for key, value in config.get("model_args", {}).items() if key != "num_classes"}
    return {CONFIG: public_json(config), WEIGHTS: folder / WEIGHTS}


def _common_files(folder: Path, key: bytes | None) -> Files:
    files: Files = {}
    for name in (_METRICS, _SUMMARY):
        if (folder / name).is_file():
            files[name] = public_json(_scores(folder / name))
    for name in ("history.csv", *(("split.csv", "predictions.csv") if key else ())):
        if (folder / name).is_file():
            files[name] = public_table(folder / name, key)
    for name in FIGURES:
        if (folder / "figures" / f"{name}.png").is_file():
            files[f"figures/{name}.png"] = public_figure(folder / "figures" / f"{name}.png")
    return files


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged; expected a JSON object")
    return value


def _scores(path: Path) -> dict[str, Any]:
    return dict(public_scores(_read(path))) if path.is_file() else {}


def _severe(run: Path) -> list[str] | None:
    if not (run / _AUDIT).is_file():
        return None
    return [f["sentence"] for f in _read(run / _AUDIT).get("findings", ()) if f.get("severity") == "severe"]


def _base_models(run: Mapping[str, Any], model: Any) -> list[str]:
    """Hub repositories of the weights that training started from."""
    config = run.get("config", {})
    name = str(config.get("model", ""))
    if name.startswith("hf-hub:"):
        return [name.removeprefix("hf-hub:").partition("@")[0]]
    if not config.get("pretrained") or name == "local-dir":
        return []
    names = getattr(model, "encoder_names", None) or [name]
    return [repository for repository in map(hub_repository, names) if repository]

"""From a run folder, prepare the files that a push writes to each branch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cvrnet.errors import UserError
from cvrnet.files import damaged_files
from cvrnet.hub import redact
from cvrnet.hub.card import leaderboard_entries, render_card
from cvrnet.runs.checkpoint import find_checkpoints, load_checkpoint, refuse_bags
from cvrnet.runs.decisions import load_decisions
from cvrnet.runs.hub_download import COMMITS
from cvrnet.runs.layout import (
    AUDIT,
    CARD,
    CONFIG,
    FIGURES,
    HISTORY,
    METRICS,
    NOVELTY,
    PREDICTIONS,
    RUN,
    SEGMENTER,
    SPLIT,
    SUMMARY,
    UNLIKE,
    WEIGHTS,
)
from cvrnet.runs.read import read_json, read_rows

Files = dict[str, bytes | Path]
"""Name of a file in the repository -> its content, or the path of the local file that holds it."""

LEADERBOARD = ".eval_results/cvrnet.yaml"  #: see `cvrnet.hub.card.leaderboard_entries`

WRITTEN = frozenset(
    {LEADERBOARD, RUN, CONFIG, WEIGHTS, NOVELTY, SEGMENTER, METRICS, SUMMARY, HISTORY, SPLIT, PREDICTIONS}
    | {f"{FIGURES}/{name}.png" for name in redact.PUBLIC_FIGURES}
)
"""The names of the files that a push may write, besides the card. Files of other names belong to somebody else."""


@dataclass(frozen=True)
class Staged:
    """The files of a run that will be pushed, without private data."""

    run: dict[str, Any]  #: run.json as it is pushed, without the folds' commits
    card: bytes  #: README.md of a new repository
    main: Files  #: the other files of ``main``, without run.json
    folds: dict[str, Files]  #: branch -> files, for each fold that is pushed

    def main_files(self, commits: Mapping[str, str]) -> Files:
        """Return all files of ``main``, with the folds' commits in run.json."""
        recorded = {COMMITS: dict(sorted(commits.items()))} if commits else {}
        return {RUN: redact.public_json(self.run | recorded), CARD: self.card, **self.main}


def stage_run(
    run: Path, repo: str, folds: Sequence[int] = (), *, with_predictions: bool = False, license: str = ""
) -> Staged:
    """Collect the files of a run to push, and remove private data; arguments and errors as in `cvrnet.hub.push_folds`.

    Each model is loaded once, to check that it can be loaded.
    """
    with damaged_files(run):
        return _stage(run, repo, folds, with_predictions, license)


def _stage(run: Path, repo: str, folds: Sequence[int], with_predictions: bool, license: str) -> Staged:
    _check_inside(run, (run,))
    description = redact.public_run(read_json(run / RUN), repo)
    if not description.get("classes"):
        raise UserError(f"{run / RUN} names no classes; expected the {RUN} of `cvrnet train` or `cvrnet crossval`")
    checkpoints = {folder.name: folder for folder in find_checkpoints(run, sorted(folds)) if folder != run}
    _check_inside(run, tuple(checkpoints.values()))
    refuse_bags(str(read_json(run / RUN).get("unit", "image")), "push")
    key = redact.hash_key(run) if with_predictions else None
    metrics = {name: _scores(folder / METRICS) for name, folder in checkpoints.items()}
    best = _best(metrics)
    for name, folder in checkpoints.items():
        if name != best:
            load_checkpoint(folder)
    model = load_checkpoint(run / best)
    if len(description["classes"]) != model.num_classes:
        named = len(description["classes"])
        raise UserError(
            f"{run / RUN} names {named} classes; expected {model.num_classes}, the number of classes of its models"
        )
    branches = {name: _files(folder, folder, key) for name, folder in checkpoints.items()}
    main = _files(run, run / best, key)
    scores = {} if checkpoints else _scores(run / METRICS)
    if entries := leaderboard_entries(description, scores, _scores(run / SUMMARY)):
        main[LEADERBOARD] = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True).encode()
    card = render_card(
        repo,
        model,
        run=description,
        config=read_json(run / best / CONFIG),
        decisions=load_decisions([run / best]),
        best=best,
        folds=metrics,
        metrics=scores,
        summary=_scores(run / SUMMARY),
        severe=_severe(run),
        marked=_marked(run / UNLIKE),
        files=list(main),
        license=license,
    )
    staged = Staged(description, card, main, branches)
    for files in (staged.main_files({}), *branches.values()):
        redact.check_harmless(files, run)
    return staged


def _check_inside(run: Path, folders: Sequence[Path]) -> None:
    """Raise UserError if a link leads out of the run: an untrusted run could make the user publish other files."""
    for path in (folder / name for folder in folders for name in (*sorted(WRITTEN), AUDIT)):
        if path.exists() and not path.resolve().is_relative_to(run.resolve()):
            raise UserError(
                f"a link leads from {path} to {path.resolve()}, outside the run; replace the link by a copy"
            )


def _best(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the fold with the highest validation accuracy; "" without folds.

    For findings, the AUC is compared. If several folds have the highest value, the fold with the lowest loss is
    returned.
    """

    def rank(name: str) -> tuple[float, float]:
        val = metrics[name].get("val", {})
        quality = val.get("accuracy", val.get("macro", {}).get("roc_auc"))
        return -(quality or 0.0), val.get("log_loss") or 0.0

    return min(metrics, key=rank, default="")


def _files(folder: Path, checkpoint: Path, key: bytes | None) -> Files:
    """Return the files of a run or fold, and of one of its models, as they are pushed."""
    files: Files = {}
    for name in (METRICS, SUMMARY):
        if (folder / name).is_file():
            files[name] = redact.public_json(_scores(folder / name))
    for name in (HISTORY, SPLIT, PREDICTIONS) if key else (HISTORY,):
        if (folder / name).is_file():
            files[name] = redact.public_table(folder / name, key)
    for figure in redact.PUBLIC_FIGURES:
        name = f"{FIGURES}/{figure}.png"
        if (folder / name).is_file():
            files[name] = redact.public_figure(folder / name)
    return {**files, **_checkpoint_files(checkpoint)}


def _checkpoint_files(checkpoint: Path) -> Files:
    """Return the files of a model as they are pushed."""
    config = read_json(checkpoint / CONFIG)
    # Checkpoints of earlier versions have num_classes here. transformers refuses it (see `cvrnet.runs.checkpoint`).
    config.setdefault("model_args", {}).pop("num_classes", None)
    others: Files = {name: checkpoint / name for name in (NOVELTY, SEGMENTER) if (checkpoint / name).is_file()}
    return {CONFIG: redact.public_json(config), WEIGHTS: checkpoint / WEIGHTS, **others}


def _scores(path: Path) -> dict[str, Any]:
    return dict(redact.without_paths(read_json(path))) if path.is_file() else {}


def _marked(path: Path) -> dict[str, float]:
    """Return the share of unusual images in each set (such as ``val``); {} if the model cannot detect such images."""
    if not path.is_file():
        return {}
    with damaged_files(path):
        rows = read_rows(path, ("set", "source", "marked"))
        shares = {row["set"]: float(row["marked"]) for row in rows if not row["source"]}
        if wrong := [share for share in shares.values() if not 0 <= share <= 1]:
            raise ValueError(f"the column `marked` has the value {wrong[0]}; expected a share from 0 to 1")
    return shares


def _severe(run: Path) -> list[str] | None:
    """Return the audit's sentences about severe problems; None if the run was not audited."""
    if not (run / AUDIT).is_file():
        return None
    findings = read_json(run / AUDIT).get("findings", ())
    return [finding["sentence"] for finding in findings if finding.get("severity") == "severe"]

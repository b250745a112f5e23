"""A run from the Hub: a folder that every command accepts."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cvrnet.errors import UserError
from cvrnet.files import write_json
from cvrnet.runs.checkpoint import load_checkpoint
from cvrnet.runs.hub_download import (
    CHECKPOINT,
    RUN,
    Snapshot,
    choose_commits,
    fetch,
    fold_commits,
    open_revision,
    parse_reference,
)
from cvrnet.runs.hub_errors import hub_errors
from cvrnet.runs.layout import CONFIG

ORIGIN = "hub.json"
"""In a pulled run: repository and commits that it came from."""
_FOLD = (*CHECKPOINT, "metrics.json", "history.csv", "predictions.csv", "figures/*.png")
_MAIN = (
    RUN,
    "README.md",
    "summary.json",
    "split.csv",
    "metrics.json",
    "history.csv",
    "predictions.csv",
    "figures/*.png",
)


@dataclass(frozen=True)
class Pulled:
    """What was pulled.

    Attributes:
        repo: ``user/repo``.
        revision: As asked for.
        commit: What that was.
        folds: Each fold's commit; empty for a single model.
        stale: Why the Hub could not be asked whether this is the newest commit; "" where it was.
    """

    repo: str
    revision: str
    commit: str
    folds: dict[str, str]
    stale: str


def pull_folds(
    reference: str,
    output: str | Path,
    *,
    folds: Sequence[int] = (),
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Pulled:
    """Download a run, check every file's hash and every model, and leave a run folder; whole, or not at all.

    Only known names are downloaded, and only JSON and safetensors are read.

    Args:
        reference: ``user/repo[@revision]``, with or without ``hf-hub:``.
        output: The folder; also holds hub.json, which says where it came from.
        folds: Numbers of the folds; all if empty.
        overwrite: Replace a run that is there.
        progress: Called after each commit with the number done and the number to do.

    Raises:
        UserError: The repository cannot be had, holds no model that is safe to read, or the folder exists.
    """
    output = Path(output)
    repo, revision = parse_reference(reference)
    _check_output(output, overwrite)
    run = open_revision(reference)
    commits = fold_commits(run)
    chosen = choose_commits(run, folds)
    if progress:
        progress(0, len(chosen) + 1)
    own = () if commits else CHECKPOINT
    parts = {"": fetch(repo, run.commit, _MAIN + own, required=own)}
    for name, commit in chosen.items():
        if progress:
            progress(len(parts), len(chosen) + 1)
        parts[name] = fetch(repo, commit, _FOLD, required=CHECKPOINT)
    pulled = Pulled(repo, revision or "main", run.commit, chosen, run.stale)
    with hub_errors(f"cannot write {output}", lambda: "nothing was changed, what was downloaded stays in the cache"):
        _assemble(parts, output, pulled, bool(commits))
    if progress:
        progress(len(chosen) + 1, len(chosen) + 1)
    return pulled


def _check_output(output: Path, overwrite: bool) -> None:
    if output.is_file():
        raise UserError(f"{output} is a file; expected a folder for the run")
    if output.is_dir() and any(output.iterdir()):
        if not any((output / name).is_file() for name in (RUN, CONFIG)):
            raise UserError(f"{output} exists and is not a run; choose another folder")
        if not overwrite:
            raise UserError(f"{output} exists; --overwrite replaces it")


def _assemble(parts: dict[str, Snapshot], output: Path, pulled: Pulled, with_folds: bool) -> None:
    """Copy the files beside the output, try the models, then put the folder into its place."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as aside:
        made = Path(aside) / "run"
        for name, snapshot in parts.items():
            names = _FOLD if name else (_MAIN if with_folds else _MAIN + CHECKPOINT)
            for path in sorted(path for pattern in names for path in snapshot.folder.glob(pattern)):
                target = made / name / path.relative_to(snapshot.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        for name in parts:
            if name or not with_folds:
                _try(made / name, f"{pulled.repo} {name}".strip())
        write_json(made / ORIGIN, asdict(pulled))
        if output.is_dir():
            shutil.rmtree(output)
        made.replace(output)


def _try(folder: Path, shown: str) -> None:
    """Load a model, so that nothing is left that cannot be."""
    try:
        load_checkpoint(folder)
    except UserError as error:
        raise UserError(str(error).replace(str(folder), shown)) from error

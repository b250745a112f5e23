"""Download a run from the Hub, as a folder that every command accepts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cvrnet.files import write_json
from cvrnet.hub_errors import hub_errors
from cvrnet.runs.checkpoint import load_checkpoint
from cvrnet.runs.folder import RunFolder, open_run_folder
from cvrnet.runs.hub_download import (
    CHECKPOINT,
    MODEL_FILES,
    Snapshot,
    fetch,
    fold_commits,
    open_revision,
    parse_reference,
)
from cvrnet.runs.layout import CARD, FIGURES, HISTORY, METRICS, ORIGIN, PREDICTIONS, RUN, SPLIT, SUMMARY

_RESULTS = (METRICS, HISTORY, PREDICTIONS, f"{FIGURES}/*.png")
_RUN_FILES = (RUN, CARD, SUMMARY, SPLIT, *_RESULTS)


@dataclass(frozen=True)
class Pulled:
    """The result of a pull: the content of hub.json."""

    repo: str
    revision: str
    commit: str
    folds: dict[str, str]  #: each fold's commit; empty for a single model
    stale: str  #: why this may not be the newest commit of the branch; "" if it is, or if a commit was requested


def pull_folds(
    reference: str,
    output: str | Path,
    *,
    folds: Sequence[int] = (),
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Pulled:
    """Download a run, check every file's hash and every model, and write a run folder atomically.

    Only files with known names are downloaded, and only JSON and safetensors are read. The folder's hub.json says where
    the run came from.

    Args:
        reference: As in `hub_checkpoints`.
        output: The run folder to write.
        folds: As in `hub_checkpoints`.
        overwrite: Replace a run that the folder holds.
        progress: Called with the number of commits downloaded so far, and the number of commits to download: one for
            the run, and one more for each fold.

    Raises:
        UserError: The repository cannot be downloaded, it holds no model that is safe to read, or the folder holds
            files that the download may not replace.
    """
    output = Path(output)
    with open_run_folder(output, overwrite=overwrite) as place:
        return _pull(reference, output, place, folds, progress or (lambda done, total: None))


def _pull(
    reference: str, output: Path, place: RunFolder, folds: Sequence[int], report: Callable[[int, int], object]
) -> Pulled:
    repo, revision = parse_reference(reference)
    run = open_revision(reference)
    commits = fold_commits(run, folds)
    total = len(commits) + 1
    report(0, total)
    model, required = ((), ()) if commits else (MODEL_FILES, CHECKPOINT)
    parts = {"": fetch(repo, run.commit, (*_RUN_FILES, *model), required=required)}
    for name, commit in commits.items():
        report(len(parts), total)
        parts[name] = fetch(repo, commit, (*MODEL_FILES, *_RESULTS), required=CHECKPOINT)
    for name, snapshot in parts.items():
        if name or not commits:
            load_checkpoint(snapshot.folder)
    pulled = Pulled(repo, revision or "main", run.commit, commits, run.stale)
    with hub_errors(f"cannot write {output}", lambda: "nothing was changed; the downloads stay in the cache"):
        place.start()
        _assemble(parts, place.folder, pulled)
    report(total, total)
    return pulled


def _assemble(parts: dict[str, Snapshot], folder: Path, pulled: Pulled) -> None:
    """Write hub.json, which marks the folder as a download, and copy the files."""
    write_json(folder / ORIGIN, asdict(pulled))
    for name, snapshot in parts.items():
        # The cache may hold other files of this commit, such as main's model. Copy only the files of this run or fold.
        model = MODEL_FILES if name or not pulled.folds else ()
        for pattern in (*model, *(_RESULTS if name else _RUN_FILES)):
            for path in snapshot.folder.glob(pattern):
                target = folder / name / path.relative_to(snapshot.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)

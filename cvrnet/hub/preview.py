"""What a push would send, without sending it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cvrnet.hub.space import space_files
from cvrnet.hub.staging import stage_run
from cvrnet.runs.hub_download import parse_reference
from cvrnet.runs.layout import CARD


def preview_push(
    run: Path, repo: str, *, folds: Sequence[int], with_predictions: bool, license: str, space: bool
) -> tuple[str, list[dict[str, Any]]]:
    """The card, and a row (branch, file, bytes) for each file. Arguments and errors as in `push_folds`."""
    repo, _ = parse_reference(repo)
    staged = stage_run(run, repo, folds, with_predictions=with_predictions, license=license)
    branches: dict[str, Any] = {"main": staged.main_files({}), **staged.folds}
    if space:
        branches["space"] = space_files(repo, license)
    rows = []
    for branch, files in branches.items():
        for name, content in sorted(files.items()):
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            rows.append({"branch": branch, "file": name, "bytes": size})
    return branches["main"][CARD].decode(), rows

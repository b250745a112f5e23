"""Each source kept out in turn: how much of a model's performance survives a change of source (extra ``train``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cvrnet.errors import UserError
from cvrnet.files import slug, write_json
from cvrnet.formatting import spread
from cvrnet.runs.layout import INDEPENDENT, SUMMARY
from cvrnet.training import Progress, TrainConfig, make_accelerator
from cvrnet.workflows.crossval import cross_validate
from cvrnet.workflows.train import describe_run, load_data, open_run


def leave_one_source_out(
    data: str | Path,
    output: str | Path,
    config: TrainConfig | None = None,
    *,
    n_folds: int = 5,
    classes: Sequence[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    cache_folder: Path | None = None,
    progress: Callable[[str, int], Progress] | None = None,
    on_decode: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Cross-validate on all sources but one, and test on that one: for each source in turn (v2's independent set).

    Each is a run of its own, ``OUTPUT/SOURCE``. A source without which the data set allows no cross-validation (a
    class would be missing, say) is named with the reason, and the others go on.

    Args:
        data: CSV manifest with sources.
        output: The folder: run.json, a run a source, summary.json.
        config: The protocol.
        n_folds: Number of folds, at least 3.
        classes: Class order; alphabetical if not given.
        resume: Go on with what is there.
        overwrite: Replace what is there.
        cache_folder: Where decoded images are kept; each is decoded once for all runs.
        progress: Given the source and the fold's number, whom to tell about its training.
        on_decode: Called after each decoded image with the number done and the number to do.

    Returns:
        What summary.json holds: for each source the scores in cross-validation, on the source, and the drop; or why
        it cannot be left out.

    Raises:
        DataError: Lists everything that is wrong with the data set, before anything is trained.
        UserError: Fewer than two sources, or the folder exists.
    """
    config, output = config or TrainConfig(), Path(output)
    accelerator = make_accelerator(config)
    records, names, _ = load_data(data, config, accelerator, classes, cache_folder, on_decode)
    sources = sorted({r.source for r in records} - {""})
    if len(sources) < 2:
        raise UserError(f"{data} has {len(sources)} source; expected two or more (the manifest's column source)")
    if accelerator.is_main_process:
        description = describe_run("leave-one-source-out", data, records, config, names, "") | {"folds": n_folds}
        open_run(output, description, resume, overwrite)
    accelerator.wait_for_everyone()
    summary: dict[str, Any] = {"classes": names, "sources": {}}
    for source in sources:
        row: dict[str, Any] = {"images": sum(r.source == source for r in records)}
        try:
            result = cross_validate(
                data,
                output / slug(source),
                config,
                n_folds=n_folds,
                classes=names,
                test_source=source,
                resume=True,
                cache_folder=cache_folder,
                progress=(lambda fold, source=source: progress(source, fold)) if progress else None,  # type: ignore[misc]
            )
        except UserError as error:
            summary["sources"][source] = {**row, "problem": str(error)}
        else:
            if result:  # the main process
                summary["sources"][source] = {
                    **row,
                    "cross_validation": result["mean_std"],
                    INDEPENDENT: result[INDEPENDENT]["mean_std"],
                    "drop_in_accuracy": result[INDEPENDENT]["drop_in_accuracy"],
                }
        if accelerator.is_main_process:
            write_json(output / SUMMARY, summary)
    accelerator.wait_for_everyone()
    return summary


def source_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a source: mean ± standard deviation over the folds, inside and outside, and the drop in accuracy."""
    rows = []
    for source, entry in summary["sources"].items():
        row = {"source left out": source, "images": entry["images"]}
        parts = {"others": entry.get("cross_validation"), "it": entry.get(INDEPENDENT)}
        for score in ("accuracy", "balanced_accuracy"):
            for where, tree in parts.items():
                row[f"{score.replace('_', ' ')} on {where}"] = spread(tree[score]) if tree else "-"
        row["drop in accuracy"] = spread(entry["drop_in_accuracy"]) if "drop_in_accuracy" in entry else "-"
        row["problem"] = entry.get("problem", "")
        rows.append(row)
    return rows

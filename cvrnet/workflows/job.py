"""What every job begins and ends with: data read once, the audit, the report."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvrnet.data import DataError, ImageCache, Record, class_names, scan_records
from cvrnet.inference import Predictor
from cvrnet.report import write_report
from cvrnet.runs.folder import hash_records, versions
from cvrnet.runs.layout import AUDIT
from cvrnet.training import Progress, TrainConfig
from cvrnet.training.processes import Processes

AUDIT_PAGE, AUDIT_TABLES = "audit.html", "audit"


@dataclass(frozen=True)
class Callbacks:
    """What a job reports while it works; called on the main process only.

    Attributes:
        say: Called with one line for the user.
        stage: Called with the name of a stage ("Decoding", "Auditing", "Predicting"); returns a function that is called
            with the number of images done and to do.
        training: Called with the name of a run ("" except for the models or sources of a sweep) and the fold (0 for a
            single training); returns the training's callbacks.
    """

    say: Callable[[str], object] = lambda line: None
    stage: Callable[[str], Callable[[int, int], object]] = lambda name: lambda done, total: None
    training: Callable[[str, int], Progress] = lambda name, fold: Progress()


@dataclass(frozen=True)
class DataSet:
    """A labelled data set, read and decoded once for the whole job.

    Attributes:
        path: As the user named it.
        records: The images.
        classes: Class names in the order of the logits.
        cache: The decoded images.
    """

    path: str | Path
    records: list[Record]
    classes: list[str]
    cache: ImageCache


def load_data(
    data: str | Path,
    config: TrainConfig,
    processes: Processes,
    classes: Sequence[str] | None,
    cache_folder: Path | None,
    callbacks: Callbacks,
) -> DataSet:
    """Read a data set and decode its images; of several processes, the main one decodes.

    Raises:
        DataError: Lists everything that is wrong with the manifest and the images.
    """
    records, problems = scan_records(data)
    cache = ImageCache(
        (config.img_size, config.img_size),
        mode="L" if config.in_chans == 1 else "RGB",
        interpolation=config.interpolation,
        folder=cache_folder,
    )
    progress = callbacks.stage("Decoding") if processes.is_main else None
    with processes.main_first():
        problems = [*problems, *cache.build(records, progress=progress)]
    if problems:
        raise DataError(problems, data)
    return DataSet(data, records, class_names(records, classes), cache)


def describe_run(kind: str, data: DataSet, config: TrainConfig, test_source: str = "") -> dict[str, Any]:
    """The content of run.json: enough to repeat the run, and to tell whether another one is the same."""
    return {
        "kind": kind,
        "data": str(Path(data.path).absolute()),
        "data_sha256": hash_records(data.records),
        "classes": data.classes,
        "images": {name: sum(r.label == name for r in data.records) for name in data.classes},
        "test_source": test_source,
        "config": config.to_dict(),
        "versions": versions("cvrnet", "torch", "timm", "accelerate", "numpy", "pillow"),
    }


def audit_run(output: Path, data: str | Path, records: Sequence[Record], callbacks: Callbacks) -> None:
    """Audit the data once, save the findings in the run, and report the severe ones.

    An audit of the same data that the run holds already is only read, so that a resumed run repeats nothing. Without
    the packages of the extra ``audit`` the audit is left out, and the user is told.
    """
    try:
        from cvrnet.audit import audit, read_severe, write_audit
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("cv2", "scipy", "sklearn"):
            raise
        callbacks.say(f'The data set was not audited: that needs {error.name}; pip install "cvrnet[audit]"')
        return
    severe = read_severe(output, records)
    if severe is None:
        callbacks.say("Auditing the data set (--no-audit skips this)")
        findings = audit(records, progress=callbacks.stage("Auditing"))
        write_audit(output, findings, records, Path(data).resolve().name, tables=output / AUDIT_TABLES)
        severe = [finding.sentence for finding in findings if finding.severity == "severe"]
    for sentence in severe:
        callbacks.say(f"severe: {sentence}")
    if severe:
        callbacks.say(f"What to do about {'it' if len(severe) == 1 else 'them'} is in {output / AUDIT_PAGE}")


def share_audit(output: Path, run: Path) -> None:
    """Give a run of a sweep the audit of the sweep's data."""
    for name in (AUDIT, AUDIT_PAGE):
        if (output / name).is_file():
            run.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(output / name, run / name)


def finish_report(output: Path, maps: bool, predictor: Predictor | None = None) -> Path:
    """Write the run's report.html and tables.

    Args:
        output: The run or evaluation.
        maps: Include Grad-CAM panels of some images.
        predictor: The model that was evaluated; by default the run's own.
    """
    from cvrnet.report.explanations import maps_section

    return write_report(output, [maps_section(output, predictor)] if maps else [])

"""The first steps of every job that trains: lock the folder, read the data set, write run.json, and audit the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cvrnet.data import DataError, ImageCache, Record, class_names
from cvrnet.data.data_set import DataPath, DataSet
from cvrnet.data.finding_labels import count_labels
from cvrnet.data.splits import INDEPENDENT
from cvrnet.data.studies import pictures_of
from cvrnet.errors import UserError
from cvrnet.files import damaged_files, write_csv
from cvrnet.inference.frozen_features import FrozenFeatures
from cvrnet.metrics.operating_points import targets_by_class
from cvrnet.runs.folder import RunFolder, claim_folder, find_run_folder, hash_records, open_run_folder, versions
from cvrnet.runs.layout import BENCHMARK, RUN, SPLIT, fold_folders
from cvrnet.runs.read import read_json, read_rows
from cvrnet.runs.split_table import split_row
from cvrnet.training import TrainConfig, is_finished, resolve_interpolation
from cvrnet.training.model import InitialModel, check_trainable, is_trained, pretrained_from
from cvrnet.training.processes import Processes
from cvrnet.training.tracking import check_tracker
from cvrnet.workflows.callbacks import Callbacks
from cvrnet.workflows.cut_lungs import count_lungs
from cvrnet.workflows.decode import decode_images
from cvrnet.workflows.findings import MULTILABEL
from cvrnet.workflows.pages import audit_run, share_audit
from cvrnet.workflows.read_data import read_training_data
from cvrnet.workflows.studies import describe_bags, one_picture_each


@dataclass(frozen=True)
class Job:
    """A job that trains: its arguments (see `cvrnet.workflows`), and its data, which is read and decoded once.

    Attributes:
        output: The folder that the user named.
        place: The folder to which the job writes until it has finished: ``output`` itself, or a folder beside it.
        records: The images or, if the config's ``unit`` is not "image", the bags (all images of a study
            or patient).
        classes: Class names in the order of the logits.
        cache: The decoded images.
        processes: The processes that train together.
        initial: The model that the config describes, before training.
        sweep: The folder of the benchmark, or of the leave-one-source-out job, to which this run belongs; the audit in
            this folder is copied to the run. None for a single run.
        features: The pooled feature maps of all images, from frozen encoders; None until `with_features` adds them.
    """

    data: DataPath
    config: TrainConfig
    callbacks: Callbacks
    audit: bool
    maps: bool
    resume: bool
    log: str
    output: Path
    place: RunFolder
    records: list[Record]
    classes: list[str]
    cache: ImageCache
    processes: Processes
    initial: InitialModel
    left_out: Sequence[str] = ()  #: a line for each picture and bag that cannot be used
    outcome: Mapping[str, Any] = field(default_factory=dict)  #: see `cvrnet.data.outcomes.describe_course`
    lungs: Mapping[str, Any] = field(default_factory=dict)  #: the result of `count_lungs`
    sweep: Path | None = None
    features: FrozenFeatures | None = None

    def with_config(self, config: TrainConfig) -> Job:
        """Return a copy of the job with another config, and with the model that this config describes.

        The images are decoded again if the interpolation differs.

        Raises:
            DataError: The images had to be decoded again, and some can no longer be read.
        """
        config, cache = resolve_interpolation(config), self.cache
        if config.interpolation != cache.interpolation:
            cache, problems = decode_images(self.records, config, cache.folder, self.processes, self.callbacks.stage)
            if problems:
                raise DataError(problems, self.data)
        initial = InitialModel(config, len(self.classes))
        return replace(self, config=config, cache=cache, initial=initial, features=None)


@contextmanager
def start_job(
    kind: str,
    data: DataPath,
    output: Path,
    config: TrainConfig | None,
    classes: Sequence[str] | None,
    cache_folder: Path | None,
    callbacks: Callbacks | None,
    audit: bool,
    maps: bool,
    resume: bool,
    overwrite: bool,
    log: str = "",
    part: str = "",
) -> Iterator[Job]:
    """Open the folder, read the data set and decode its images; only the main process locks the folder and decodes.

    If the folder has an earlier run that the job does not continue, the new run replaces it when the ``with`` block has
    succeeded. ``kind`` is the job's kind in run.json; ``part`` is the name of the fold if the job trains only one
    fold. Other arguments: see `cvrnet.workflows` and `open_run_folder`.

    Raises:
        DataError: The data set has errors; the message lists everything that is wrong with the manifest and the images.
        UserError: The folder has files that the job may not change, or the data set lacks something that the config
            needs.
    """
    config, callbacks = resolve_interpolation(config or TrainConfig()), callbacks or Callbacks()
    check_tracker(log)
    processes = Processes(config.device, config.amp)
    with ExitStack() as stack:
        with processes.main_first():  # claim the folder first, because decoding can take minutes
            if processes.is_main:
                opened = open_run_folder(output, kind, part=part, resume=resume, overwrite=overwrite)
                place = stack.enter_context(opened)
            else:
                place = find_run_folder(output, kind, resume=resume, overwrite=overwrite)
        if place.continues:
            with damaged_files(place.folder / RUN):
                config = replace(config, grey_version=read_json(place.folder / RUN)["config"].get("grey_version", 1))
        say = callbacks.say if processes.is_main else lambda line: None
        read = read_training_data(data, config, classes, cache_folder, processes, callbacks.stage, say)
        config, records, cache = read.config, read.records, read.cache
        with processes.main_first():
            lungs = count_lungs(cache, records, config, say)
        names = list(config.findings) or class_names(records, classes)
        for targets in (config.sensitivity, config.specificity):
            targets_by_class(targets, names)  # refuses an unknown class
        of_user = (data, config, callbacks, audit, maps, resume, log, output)
        initial = InitialModel(config, len(names))
        about = read.left_out, read.outcome, lungs
        yield Job(*of_user, place, records, names, cache, processes, initial, *about)


def with_features(job: Job, folders: Sequence[Path]) -> Job:
    """Return the job with the pooled feature maps of all images, if its config freezes all encoders.

    ``folders`` are the folders of the models that the job trains. If encoders are not frozen, or the training of all
    these models is finished, return the job unchanged.

    Raises:
        UserError: The model is not a CVR-Net, or its weights are not available.
    """
    config = job.config
    if config.freeze != "all" or all(is_finished(folder, config) for folder in folders):
        return job
    model: Any = job.initial.model
    started = config.pretrained or pretrained_from(model) or is_trained(config.model)
    if job.processes.is_main and not started:
        job.callbacks.say("Warning: the frozen encoders have random weights; expect low scores")
    processes = job.processes
    features = FrozenFeatures(
        model,
        job.cache,
        str(processes.device),
        "fp32" if config.amp == "auto" else config.amp,
        views=config.views,
        augmentation=config.augmentation,
        seed=config.seed,
    )
    progress = job.callbacks.stage("Computing features") if processes.is_main else None
    with processes.main_first():
        features.load(pictures_of(job.records), progress)
    return replace(job, features=features)


def open_run(
    job: Job,
    output: Path,
    kind: str,
    split: Iterable[tuple[Record, str | int]],
    test_source: str = "",
    **further: Any,
) -> None:
    """On the main process, write run.json and split.csv to a run's folder, and audit the data set.

    ``split`` yields each image with its set or fold. ``further`` are further keys of run.json.

    Raises:
        UserError: The folder has files that may not be replaced, or a run with another split or other settings; or the
            model cannot be created.
    """
    if job.processes.is_main:
        resumed = job.resume and (output / RUN).is_file()
        if kind != BENCHMARK and not resumed:  # so that errors come before a folder is made
            check_trainable(job.initial.model, job.config)
            further["pretrained_from"] = pretrained_from(job.initial.model)
        if resumed:
            earlier = read_json(output / RUN).get("pretrained_from")
            further |= {} if earlier is None else {"pretrained_from": earlier}
            for folder in (output, *fold_folders(output).values()):
                is_finished(folder, job.config)  # raises if the further epochs cannot be trained
        description = {
            "kind": kind,
            **DataSet.of(job.data).for_run(),
            "data_sha256": hash_records(job.records),
            **({} if job.config.unit == "image" else describe_bags(job.records, job.config.unit, job.config.pooling)),
            **({"left_out": list(job.left_out)} if job.left_out else {}),
            **({"outcome": dict(job.outcome)} if job.outcome else {}),
            **({"lungs": dict(job.lungs)} if job.lungs else {}),
            "classes": job.classes,
            **(MULTILABEL if job.config.findings else {}),
            "images": count_labels(job.records, job.classes),
            "test_source": test_source,
            "config": job.config.to_dict(),
            "versions": versions("cvrnet", "torch", "timm", "accelerate", "numpy", "pillow"),
            **further,
        }
        if output == job.place.folder:
            job.place.start()
        defaults = {**TrainConfig().to_dict(), "grey_version": 1}  # the defaults of version 0.1
        claim_folder(output, description, resume=job.resume, defaults=defaults)
        if output == job.place.folder and job.place.aside:
            job.callbacks.say(
                f"{job.output} does not change until the new run is complete; until then, the new run is in {output}, "
                "and --resume continues it, with or without --overwrite"
            )
        _write_split(output / SPLIT, [split_row(record, part) for record, part in split])
        if job.sweep is not None:
            share_audit(job.sweep, output)
        elif job.audit:
            names = tuple(job.config.findings), job.config.uncertain
            pictures = one_picture_each(job.records)
            audit_run(output, job.data, pictures, job.callbacks, job.config.any_body_part, job.output, *names)
    job.processes.wait()


def _write_split(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write split.csv; raise UserError if an earlier split.csv is different, because models were trained with it."""
    if not path.is_file():
        if rows:
            write_csv(path, rows)
        return
    sets = {"test": INDEPENDENT}  # in a single training, version 0.1 called the independent set ``test``
    before = {(row["path"], sets.get(row["fold"], row["fold"])) for row in read_rows(path, ("path", "fold"))}
    if before != {(row["path"], str(row["fold"])) for row in rows}:
        raise UserError(
            f"the split in {path}, from an earlier start of this run, differs from the present split; "
            "--overwrite replaces the run"
        )

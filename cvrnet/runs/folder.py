"""Decide which job may write to the folder of a run, and when a new run replaces an earlier run."""

from __future__ import annotations

import fnmatch
import hashlib
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cvrnet.data import Record
from cvrnet.data.data_set import COLUMN_NAMES, IMAGES_ROOT
from cvrnet.data.studies import Study
from cvrnet.errors import UserError
from cvrnet.files import damaged_files, write_json
from cvrnet.folders import (
    can_be_renamed,
    check_replaceable,
    entries,
    lock_folder,
    made_aside,
    new_folder,
    real_folder,
    recover,
)
from cvrnet.runs.layout import BENCHMARK, COMPARE, CONFIG, ORIGIN, RUN, RUN_ENTRIES, fold_number
from cvrnet.runs.read import read_json

IDENTITY = ("data_sha256", IMAGES_ROOT, COLUMN_NAMES, "classes", "test_source", "folds")
"""Keys of run.json. Two jobs of one kind are the same job if these keys and the settings in ``config`` are equal."""
MAY_CHANGE = {"device", "num_workers", "compile"}
"""Settings that may differ when a run is resumed: they change the speed, not the result."""
SWEEPS = (BENCHMARK, "leave-one-source-out", COMPARE)
"""Sweeps: the kinds of jobs whose folder holds other runs."""
# Kinds of jobs that take only minutes, so they are not resumed.
_IN_ONE_GO = ("evaluate", COMPARE, "soup", "calibrate", "convert-keras", "")


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run that a job writes.

    Attributes:
        path: The folder that the user named, as an absolute path in which symbolic links are resolved.
        folder: Where the job writes: ``path``, or a folder beside it that replaces ``path`` when the job has finished.
        continues: Whether the job continues the run in ``folder``.
    """

    path: Path
    folder: Path
    continues: bool

    @property
    def aside(self) -> bool:
        """Whether the new run is made in a hidden folder, which replaces ``path`` at the end."""
        return self.folder != self.path

    def start(self) -> None:
        """Remove an earlier job's unfinished run from the hidden folder beside ``path``, unless this job continues it.

        Call this method only when all checks of the job have passed.
        """
        if not self.continues and (new := new_folder(self.path)).exists():
            check_replaceable(new, _is_of_a_run)
            shutil.rmtree(new)


def find_run_folder(output: str | Path, kind: str, *, resume: bool = False, overwrite: bool = False) -> RunFolder:
    """Return the folder that a job of this kind writes to; change nothing.

    If ``output`` is empty, the job writes to it. If it is not empty, the job writes to a hidden folder beside it.
    Short jobs, such as an evaluation, use the hidden folder even for an empty ``output``, unless ``output`` exists and
    cannot be renamed. With ``resume``, the job continues the run in the hidden folder or, if that has no run and
    ``overwrite`` is False, the run in ``output``. If there is no run to continue, the job starts a new run.
    """
    path = real_folder(output)
    new = new_folder(path)
    if resume and (new / RUN).is_file():
        return RunFolder(path, new, continues=True)
    if resume and not overwrite and (path / RUN).is_file():
        return RunFolder(path, path, continues=True)
    aside = entries(path) or (kind in _IN_ONE_GO and not (path.exists() and not can_be_renamed(path)))
    return RunFolder(path, new if aside else path, continues=False)


@contextmanager
def open_run_folder(
    output: str | Path, kind: str = "", *, part: str = "", resume: bool = False, overwrite: bool = False
) -> Iterator[RunFolder]:
    """Lock the folder of a run for a job; if the job succeeds, its run replaces an earlier run in the folder.

    The folder may be empty. With ``resume`` or ``overwrite``, it may hold a run of this kind. An earlier run that the
    job does not continue stays unchanged until the ``with`` block has succeeded.

    Args:
        output: The folder, or a symbolic link to it.
        kind: The kind of the job, as in run.json (``train``, ``crossval`` and so on); "" for a run or model of any
            kind.
        part: The name of the fold that the job writes; "" if the job writes the whole run. While a job writes one
            fold, other processes may write other folds.
        resume: Continue the run in the folder.
        overwrite: Replace the run in the folder.

    Raises:
        UserError: The job may not change what is in the folder, or another process is writing to it.
    """
    path = real_folder(output)
    resumed = resume and kind not in _IN_ONE_GO
    with ExitStack() as stack:
        shared = bool(part) and not overwrite and not new_folder(path).exists()
        stack.enter_context(lock_folder(path, shared=shared))
        if shared:
            stack.enter_context(lock_folder(path, part))
        else:
            recover(path)
        _check_start(path, kind, resumed, overwrite)
        found = find_run_folder(path, kind, resume=resumed, overwrite=overwrite)
        if found.aside:
            stack.enter_context(made_aside(path, lambda new: kind not in _IN_ONE_GO and (new / RUN).is_file()))
        yield found
        if found.aside:
            check_folder(path, kind, overwrite=True)  # checked again, because days may have passed


def _check_start(path: Path, kind: str, resume: bool, overwrite: bool) -> None:
    """Raise UserError if the job may not write to a folder, or if a new run would leave an unfinished run behind."""
    new = new_folder(path)
    unfinished = kind not in _IN_ONE_GO and (new / RUN).is_file()
    if unfinished and resume:
        check_folder(new, kind, resume=True)
        check_folder(path, kind, overwrite=True)
        return
    there = check_folder(path, kind, resume=resume, overwrite=overwrite)
    if unfinished and not there and not overwrite:
        raise UserError(f"{new} is an unfinished run; --resume continues it, --overwrite replaces it")


def check_folder(folder: Path, kind: str = "", *, resume: bool = False, overwrite: bool = False) -> bool:
    """Return whether a folder already has a run; change no file.

    Raises:
        UserError: The job may not write to the folder. For example, the folder holds files but no run; or it holds a
            run of another kind; or it holds a run, and ``resume`` and ``overwrite`` are False.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; expected a folder for the run")
    if not entries(folder):
        return False
    if not any((folder / name).is_file() for name in (RUN, CONFIG, ORIGIN)):
        raise UserError(f"{folder} exists and is not a run; choose another folder")
    if kind and (there := read_json(folder / RUN).get("kind")) != kind:
        raise UserError(f"{folder} holds a run of another kind ({there}, not {kind}); choose another folder")
    if not (resume or overwrite):
        again = "" if kind in _IN_ONE_GO else "--resume continues it, "
        raise UserError(f"{folder} exists; {again}--overwrite replaces it")
    if overwrite:
        if not is_ours(folder):
            raise UserError(f"{folder} exists and is not a run that cvrnet made; choose another folder")
        check_replaceable(folder, _is_of_a_run)
    return True


def is_ours(folder: Path) -> bool:
    """Return whether this library made a folder: run.json names cvrnet's version, or hub.json describes a download."""
    run, origin = (read_json(path) if (path := folder / name).is_file() else {} for name in (RUN, ORIGIN))
    versions = run.get("versions")
    return (isinstance(versions, Mapping) and "cvrnet" in versions) or {"repo", "commit"} <= origin.keys()


def _is_of_a_run(path: Path) -> bool:
    """Return whether an entry of a run's folder belongs to the run: by its name, or as one of the runs of a sweep."""
    if path.is_dir() and fold_number(path.name):
        return True
    if (path / RUN).is_file() and (path.parent / RUN).is_file():
        return read_json(path.parent / RUN).get("kind") in SWEEPS
    return any(fnmatch.fnmatchcase(path.name, pattern) for pattern in RUN_ENTRIES)


def claim_folder(
    folder: Path, description: Mapping[str, Any], *, resume: bool = False, defaults: Mapping[str, Any] | None = None
) -> None:
    """Write ``description`` to run.json, unless the folder belongs to another job.

    With ``resume``, the folder may already hold this job's run.json, in which the number of epochs may be smaller than
    in ``description``. ``defaults`` are values for settings that the run.json of an older version lacks.

    Raises:
        UserError: The folder belongs to another job, or `check_folder` refuses it.
    """
    if check_folder(folder, description["kind"], resume=resume) and (
        changed := _changes(folder, description, defaults or {})
    ):
        raise UserError(f"{folder} holds another run ({'; '.join(changed)}); --overwrite replaces it")
    write_json(folder / RUN, description)


def _changes(folder: Path, now: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    def short(value: Any) -> str:
        return repr(value[:12] if isinstance(value, str) else value)

    with damaged_files(folder / RUN):
        before = read_json(folder / RUN)
        settings = {**defaults, **before["config"]}
        pairs = [(key, before.get(key), now.get(key)) for key in IDENTITY]
        pairs += [(key, settings.get(key), value) for key, value in now["config"].items() if key not in MAY_CHANGE]
        longer = settings.get("epochs", 0) < now["config"].get("epochs", 0)  # more epochs continue the training
        return [
            f"{key} is now {short(new)}, was {short(old)}"
            for key, old, new in pairs
            if old != new and not (key == "epochs" and longer)
        ]


def hash_records(records: Sequence[Record]) -> str:
    """Return the SHA-256 of a run's inputs: each image's name, label or findings, source, patient and split.

    The images are in the order of ``records``. If the records are bags (see `Study`), each bag's values come first,
    then the values of its images.
    """
    digest = hashlib.sha256()
    bags = [each for record in records if isinstance(record, Study) for each in (record, *record.pictures)]
    for r in bags or records:
        cells = (r.name, r.label, r.source, r.patient_id, r.split, *map(str, r.findings))
        digest.update("\x1f".join(cells).encode() + b"\n")
    return digest.hexdigest()


def versions(*names: str) -> dict[str, str]:
    """Return the versions of these packages and of Python."""
    return {**{name: version(name) for name in names}, "python": platform.python_version()}

"""The folder of a run: claimed for a new job, or opened again for the same one."""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cvrnet.data import Record
from cvrnet.errors import UserError
from cvrnet.files import damaged_files, write_json
from cvrnet.runs.layout import CONFIG, RUN
from cvrnet.runs.read import read_json

IDENTITY = ("data_sha256", "classes", "test_source", "folds")
"""Keys of run.json that tell one job from another of its kind, beside the settings in ``config``."""
MAY_CHANGE = {"device", "num_workers"}
"""Settings that a resumed run may change: they change the speed and not the result."""
_IN_ONE_GO = ("evaluate", "soup", "convert-keras", "")  # jobs that are not resumed, because they take minutes


def check_folder(folder: Path, kind: str = "", *, resume: bool = False, overwrite: bool = False) -> bool:
    """Whether a folder holds a run already. Changes no file; refuses a folder that the job may not write to.

    The folder may be empty. With `resume` or `overwrite` it may hold a run of this kind (``train``, ``crossval`` and so
    on; "" for a run or model of any kind).
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file; expected a folder for the run")
    if not folder.exists() or not any(folder.iterdir()):
        return False
    if not any((folder / name).is_file() for name in (RUN, CONFIG)):
        raise UserError(f"{folder} exists and is not a run; choose another folder")
    if kind and (there := read_json(folder / RUN).get("kind")) != kind:
        raise UserError(f"{folder} holds a run of another kind ({there}, not {kind}); choose another folder")
    if not (resume or overwrite):
        again = "" if kind in _IN_ONE_GO else "--resume continues it, "
        raise UserError(f"{folder} exists; {again}--overwrite replaces it")
    return True


def claim_folder(
    folder: Path,
    description: Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Make a run folder with its run.json, or make sure that the folder holds the same job; refuses as `check_folder`.

    The description is the content of run.json. With `resume` the folder may hold this very job; with `overwrite` an
    earlier run of the same kind is removed. `defaults` are the values of settings that an older version does not name.
    """
    if check_folder(folder, description["kind"], resume=resume, overwrite=overwrite):
        if overwrite:
            shutil.rmtree(folder)
        elif changed := _changes(folder, description, defaults or {}):
            raise UserError(f"{folder} is another run ({'; '.join(changed)}); --overwrite replaces it")
    write_json(folder / RUN, description)


def _changes(folder: Path, now: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    def short(value: Any) -> str:
        return repr(value[:12] if isinstance(value, str) else value)

    with damaged_files(folder / RUN):
        before = read_json(folder / RUN)
        settings = {**defaults, **before["config"]}
        pairs = [(key, before.get(key), now.get(key)) for key in IDENTITY]
        pairs += [(key, settings.get(key), value) for key, value in now["config"].items() if key not in MAY_CHANGE]
        return [f"{key} is {short(new)}, was {short(old)}" for key, old, new in pairs if old != new]


def hash_records(records: Sequence[Record]) -> str:
    """SHA-256 of the inputs of a run: each image's name, label, source, patient and split, in the data's order."""
    digest = hashlib.sha256()
    for r in records:
        digest.update("\x1f".join((r.name, r.label, r.source, r.patient_id, r.split)).encode() + b"\n")
    return digest.hexdigest()


def versions(*names: str) -> dict[str, str]:
    """The versions of these packages and of Python."""
    return {**{name: version(name) for name in names}, "python": platform.python_version()}

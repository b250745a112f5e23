"""Remove private data from a run's files: local paths, login, host name, patient ids, and images."""

from __future__ import annotations

import csv
import hmac
import io
import json
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from cvrnet.data.identity import keyed_hash
from cvrnet.errors import UserError
from cvrnet.files import atomic_write
from cvrnet.runs.layout import HASH_KEY, RUN

PUBLIC_FIGURES = ("confusion_matrix", "roc", "precision_recall", "calibration", "learning_curves", "heads")
"""The figures that show only numbers. Every other figure may show a patient's image, and is not pushed."""

DATA_HASH, DATA_KEY = "data_sha256", "data_key"
_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "kind": (str, "a word"),
    DATA_HASH: (str, "a hash"),
    DATA_KEY: (str, "the start of a hash"),
    "classes": (list, "a list of names"),
    "task": (str, "a word"),
    "images": (dict, "the number of images of each class"),
    "test_source": (str, "a name"),
    "folds": ((int, list), "a number, or a list of names"),
    "config": (dict, "the settings by their names"),
    "versions": (dict, "a version for each package"),
    "source": (dict, "a file and its hash"),
    "pretrained_from": (list, "a list of names"),
    "calibration": (dict, "the entry that cvrnet calibrate writes"),
    "data": (str, "the data set's path"),
}
"""The type of each value of run.json that is published, and its description in messages."""
_RUN_KEYS = tuple(key for key in _TYPES if key != "data")
_MACHINE = ("device", "num_workers", "segmenter")
_COLUMNS = re.compile(
    r"path|label|prediction(_P\d+)?|(prob|true)_.*|source|patient_id|split|fold|epoch|lr|(train|val)_\w+|seconds|best"
)
_PATH = re.compile(
    r"(?<![\w:/.])(?:/(?:home|Users|root|mnt|media|tmp|var|data|work|scratch)/[^\s\"',)]+)|\b[A-Z]:\\\\?[A-Za-z]{2}"
)


def public_run(run: Mapping[str, Any], repo: str) -> dict[str, Any]:
    """Return run.json without facts about the machine; the data set is named only if it is a data set of the Hub.

    Readers could identify the data set by comparing ``data_sha256`` with the hashes of known data sets. So this hash is
    replaced by a keyed hash, which differs between repositories. Only the user has the key; ``data_key`` identifies it.
    If the key cannot be read or made, ``data_sha256`` and ``data_key`` are left out.

    >>> run = {"kind": "train", "data": "/home/ada/ward-7/manifest.csv", "config": {"model": "local-dir:/home/ada/run"}}
    >>> public_run(run, "ada/chest")
    {'kind': 'train', 'config': {'model': 'local-dir'}}

    Raises:
        UserError: A value has a type that this package does not write.
    """
    _check_types(run)
    public = {key: without_paths(run[key]) for key in _RUN_KEYS if key in run}
    if "config" in public:
        model = str(run["config"].get("model", ""))
        kept = {key: value for key, value in public["config"].items() if key not in _MACHINE}
        if model.startswith("local-dir:") or (os.sep in model.partition(":")[2] and not model.startswith("hf-hub:")):
            model = "local-dir"
        public["config"] = {**kept, **({"model": model} if model else {}), **_public_sources(run["config"])}
    name = str(run.get("data", ""))
    if re.fullmatch(r"hfds:[\w.-]+/[\w.-]+", name) and not Path(name.removeprefix("hfds:")).exists():
        public["data"] = name
    if DATA_HASH in public and DATA_KEY not in public:  # a pulled run has both
        local = public.pop(DATA_HASH)
        with suppress(UserError):
            hashed = {key: keyed_hash(f"{repo}:{key}:{local * (key == DATA_HASH)}") for key in (DATA_HASH, DATA_KEY)}
            public |= {DATA_HASH: hashed[DATA_HASH], DATA_KEY: hashed[DATA_KEY][:8]}
    return {key: public[key] for key in _TYPES if key in public}


def _public_sources(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the encoders, without local folders and paths."""
    encoders, files = config.get("encoders", ()), config.get("encoder_weights", ())
    public = {
        "encoders": ["local-dir" if str(name).startswith("local-dir:") else name for name in encoders],
        "encoder_weights": [re.sub(r"^([\w.]+=)?.*[/\\]", r"\1", str(text)) for text in files],
    }
    return {key: value for key, value in public.items() if key in config}


def _check_types(run: Mapping[str, Any]) -> None:
    for key, (types, expected) in _TYPES.items():
        if key in run and not isinstance(run[key], types):
            raise UserError(f"{RUN}: {key} is {run[key]!r:.60}; expected {expected}")
    classes, images = run.get("classes", []), run.get("images", {})
    if not all(isinstance(name, str) for name in classes):
        raise UserError(f"{RUN}: classes is {classes!r:.60}; expected a list of names")
    if not all(isinstance(count, int) for count in images.values()):
        raise UserError(f"{RUN}: images is {images!r:.60}; expected the number of images of each class")


def without_paths(value: Any) -> Any:
    """Return a JSON value without the strings that look like paths, such as the paths of images."""
    if isinstance(value, Mapping):
        return {key: without_paths(item) for key, item in value.items() if not _looks_local(item)}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value if not _looks_local(item)]
    return value


def _looks_local(value: Any) -> bool:
    return isinstance(value, str) and (value.startswith(("/", "~", "\\", "local-dir:")) or bool(_PATH.search(value)))


def public_table(path: Path, key: bytes | None) -> bytes:
    """Return a CSV file without unknown columns; paths and patient ids are hashed or, without a key, empty."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        columns = [name for name in rows.fieldnames or () if _COLUMNS.fullmatch(name)]
        out = io.StringIO()
        writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            for name in ("path", "patient_id"):
                if row.get(name):
                    row[name] = hmac.digest(key, row[name].encode(), "sha256").hex()[:16] if key else ""
            writer.writerow(row)
    return out.getvalue().encode()


def hash_key(run: Path) -> bytes:
    """Return the run's random key for hashes; if its file is missing, make one that only the owner can read."""
    path = run / HASH_KEY
    if not path.is_file():
        with atomic_write(path) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(secrets.token_hex(32) + "\n", encoding="ascii")
    try:
        return bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError as error:
        raise UserError(f"{path} is damaged; delete it to get a new key, which changes all hashed ids") from error


def public_figure(path: Path) -> bytes:
    """Return a PNG file without metadata, such as text entries and times; raise UserError if the file is incomplete."""
    file = io.BytesIO()
    try:
        with Image.open(path, formats=["PNG"]) as figure:
            figure.load()
            figure.info.clear()
            figure.save(file, "PNG")
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"{path} is not a complete PNG; restore it from a copy, or delete it to push without this figure"
        ) from error
    return file.getvalue()


def check_harmless(files: Mapping[str, bytes | Path], run: Path) -> None:
    """Raise UserError if a file that will be pushed still contains a path on this machine."""
    local = {str(run.resolve()), str(Path.home()), str(Path.cwd())} - {"/", "/root", "C:\\"}
    for name, content in files.items():
        if not name.endswith((".json", ".md", ".csv", ".safetensors")):
            continue
        data = content if isinstance(content, bytes) else _header(content)
        text = data.decode("utf-8", errors="replace")
        if found := _PATH.search(text) or next((re.search(re.escape(p), text) for p in local if p in text), None):
            raise UserError(
                f"{name} contains a path on this machine ({found[0][:40]}…); nothing was pushed; "
                "remove the path from the run's files"
            )


def _header(path: Path) -> bytes:
    """Return the header of a safetensors file: names, shapes and metadata."""
    with path.open("rb") as file:
        return file.read(min(int.from_bytes(file.read(8), "little"), 1 << 24))


def public_json(value: Any) -> bytes:
    """Return the bytes of a JSON file, as :func:`cvrnet.files.write_json` would write it."""
    # A lone surrogate, which UTF-8 cannot represent, becomes the JSON escape of the same character.
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")

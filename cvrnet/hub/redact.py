"""Removes private data from a run's files: local paths, login, host name, patient ids, images."""

from __future__ import annotations

import csv
import getpass
import hmac
import io
import json
import os
import re
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from PIL import Image

from cvrnet.errors import UserError
from cvrnet.files import atomic_write
from cvrnet.runs.layout import HASH_KEY

PUBLIC_FIGURES = ("confusion_matrix", "roc", "precision_recall", "calibration", "learning_curves", "heads")
"""Figures of numbers. Every other figure may show a patient's image, and is not pushed."""

_RUN_KEYS = ("kind", "data_sha256", "classes", "images", "test_source", "folds", "config", "versions", "source")
_MACHINE = ("device", "num_workers")
_COLUMNS = re.compile(
    r"path|label|prediction|prob_.*|source|patient_id|split|fold|epoch|lr|(train|val)_\w+|seconds|best"
)
_PATH = re.compile(
    r"(?<![\w:/.])(?:/(?:home|Users|root|mnt|media|tmp|var|data|work|scratch)/[^\s\"',)]+)|\b[A-Z]:\\\\?[A-Za-z]{2}"
)


def public_run(run: Mapping[str, Any]) -> dict[str, Any]:
    """run.json without facts about the machine. The last part of the data set's path is kept if it is harmless.

    >>> run = {"kind": "train", "data": "/home/ada/ward-7/manifest.csv", "config": {"model": "local-dir:/home/ada/run"}}
    >>> public_run(run)
    {'kind': 'train', 'config': {'model': 'local-dir'}, 'data': 'manifest.csv'}
    """
    public = {key: without_paths(run[key]) for key in _RUN_KEYS if key in run}
    if "config" in public:
        model = str(run["config"].get("model", ""))
        kept = {key: value for key, value in public["config"].items() if key not in _MACHINE}
        if model.startswith("local-dir:") or (os.sep in model.partition(":")[2] and not model.startswith("hf-hub:")):
            model = "local-dir"
        public["config"] = {**kept, **({"model": model} if model else {})}
    data = str(run.get("data", ""))
    name = data if data.startswith("hfds:") else harmless_name(data)
    return {**public, **({"data": name} if name else {})}


def harmless_name(path: str) -> str:
    r"""The last part of a path, or "" if that holds the login or the machine's name.

    >>> harmless_name("/home/ada/scans/manifest.csv"), harmless_name("C:\\scans\\covid.csv")
    ('manifest.csv', 'covid.csv')
    """
    try:
        login = getpass.getuser()
    except (OSError, KeyError):  # no such user in this container
        login = ""
    private = {login, Path.home().name, socket.gethostname(), socket.gethostname().partition(".")[0]}
    name = PurePath(path.replace("\\", "/")).name
    return "" if any(word.lower() in name.lower() for word in private if len(word) > 1) else name


def without_paths(value: Any) -> Any:
    """A JSON value without the strings that look like paths, such as the names of the worst images."""
    if isinstance(value, Mapping):
        return {key: without_paths(item) for key, item in value.items() if not _looks_local(item)}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value if not _looks_local(item)]
    return value


def _looks_local(value: Any) -> bool:
    return isinstance(value, str) and (value.startswith(("/", "~", "\\", "local-dir:")) or bool(_PATH.search(value)))


def public_table(path: Path, key: bytes | None) -> bytes:
    """A CSV file without unknown columns, its paths and patient ids hashed with the key, or empty without a key."""
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
    """The run's random key for hashes; made at the first push that needs it, and readable by its owner only."""
    path = run / HASH_KEY
    if not path.is_file():
        with atomic_write(path) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(secrets.token_hex(32) + "\n", encoding="ascii")
    try:
        return bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError as error:
        raise UserError(f"{path} is damaged; delete it to get a new key, with which all hashed ids change") from error


def public_figure(path: Path) -> bytes:
    """A PNG file with its pixels only, without text, times and other metadata; refuses one that is not complete."""
    file = io.BytesIO()
    try:
        with Image.open(path, formats=["PNG"]) as figure:
            figure.load()
            figure.info.clear()
            figure.save(file, "PNG")
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} is not a complete PNG; remove it, or draw it again") from error
    return file.getvalue()


def check_harmless(files: Mapping[str, bytes | Path], run: Path) -> None:
    """Refuse to push if a file still holds a path of this machine, whatever was removed before."""
    local = {str(run.resolve()), str(Path.home()), str(Path.cwd())} - {"/", "/root", "C:\\"}
    for name, content in files.items():
        if not name.endswith((".json", ".md", ".csv", ".safetensors")):
            continue
        data = content if isinstance(content, bytes) else _header(content)
        text = data.decode("utf-8", errors="replace")
        if found := _PATH.search(text) or next((re.search(re.escape(p), text) for p in local if p in text), None):
            raise UserError(f"{name} holds a path of this machine ({found[0][:40]}…); nothing was pushed")


def _header(path: Path) -> bytes:
    """The header of a safetensors file: names, shapes and metadata."""
    with path.open("rb") as file:
        return file.read(min(int.from_bytes(file.read(8), "little"), 1 << 24))


def public_json(value: Any) -> bytes:
    """A JSON file as :func:`cvrnet.files.write_json` writes it."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()

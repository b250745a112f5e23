"""Patient and source of a DICOM file, from its tags, under pseudonyms.

A patient number has so few digits that a plain hash of it can be reversed by trying them all. So the pseudonym is an
HMAC-SHA-256 under a key that only its owner knows: the same on every data set, of no use to others.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from cvrnet.errors import UserError
from cvrnet.files import user_folder

KEY = "CVRNET_ID_KEY"
"""Environment variable: the key; several machines with the same key give the same pseudonyms."""

PLAIN = "CVRNET_PATIENT_IDS"
"""Environment variable: ``plain`` leaves patient and source as the tags have them."""

_NOBODY = {"", "anon", "anonymous", "anonymized", "anonymised", "unknown", "none", "removed", "na", "n/a", "0"}
"""What de-identified files say instead of a patient: those images count as without one."""


def identity(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Patient and source, ``""`` where the tags do not say.

    The patient is PatientID. The source is InstitutionName, or, where that is missing, Manufacturer and model.

    Raises:
        Refused: The file is damaged.
        UserError: The key cannot be kept.
    """
    from cvrnet.data.dicom import quiet, read_header

    with quiet():
        header = read_header(path, ["PatientID", "InstitutionName", "Manufacturer", "ManufacturerModelName"])
        patient, institution, *scanner = (
            " ".join(str(header.get(name) or "").split())
            for name in ("PatientID", "InstitutionName", "Manufacturer", "ManufacturerModelName")
        )
    source = institution or " ".join(filter(None, scanner))
    return pseudonym(patient, "p"), pseudonym(source, "s")


def pseudonym(value: str, prefix: str) -> str:
    """``prefix`` and 16 hexadecimal digits; ``""`` for what names nobody.

    Raises:
        UserError: The key cannot be read or written, or the setting is not known.
    """
    if value.lower() in _NOBODY:
        return ""
    setting = os.environ.get(PLAIN, "hashed")
    if setting not in ("hashed", "plain"):
        raise UserError(f"{PLAIN}={setting!r}; expected hashed or plain")
    if setting == "plain":
        return value
    return prefix + hmac.new(_key(), f"{prefix}:{value}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:16]


def key_file() -> Path:
    """Where the user's own key is kept."""
    return user_folder("config") / "id-key"


def _key() -> bytes:
    """The key of the environment, or the user's own, made when first needed."""
    if chosen := os.environ.get(KEY):
        return chosen.encode()
    path = key_file()
    try:
        if not path.exists():
            _make_key(path)
        key = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the key for patients' pseudonyms: {error.strerror}; or set {KEY}") from error
    if len(key) < 32:
        raise UserError(f"{path}: the key for patients' pseudonyms is damaged: delete it, or set {KEY}")
    return key


def _make_key(path: Path) -> None:
    """A new key for this user's eyes alone; of several processes that make one, the first one's stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)

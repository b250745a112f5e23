"""Patient and source of a DICOM file, read from its tags and replaced by pseudonyms.

Patient numbers are so short that a plain hash of one can be reversed by trying them all. A pseudonym is therefore an
HMAC-SHA-256 with a key that only its owner knows. It is the same in every data set, and of no use to others.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cvrnet.data.image import PICTURE_SUFFIXES, dicom_module, is_dicom
from cvrnet.data.limits import Refused
from cvrnet.data.record import Record, Row
from cvrnet.errors import UserError
from cvrnet.files import user_folder

# Environment variables
KEY = "CVRNET_ID_KEY"  #: the key; machines that share it give the same pseudonyms
PLAIN = "CVRNET_PATIENT_IDS"  #: ``plain`` keeps patient and source as the tags have them

# What de-identified files contain instead of a patient's id
_NOBODY = {"", "anon", "anonymous", "anonymized", "anonymised", "unknown", "none", "removed", "na", "n/a", "0"}
_TAGS = ("PatientID", "InstitutionName", "Manufacturer", "ManufacturerModelName")


def with_identity(record: Record, wrong: list[str]) -> Row:
    """The record as a row, with patient and source from a DICOM file's tags where the record does not name them.

    The patient is PatientID. The source is InstitutionName or, if that is missing, Manufacturer and model.
    """
    if wrong or (record.patient_id and record.source) or record.path.suffix.lower() in PICTURE_SUFFIXES:
        return record, wrong
    try:
        with open(record.path, "rb") as file:
            if not is_dicom(file):
                return record, wrong
        dicom = dicom_module()
        with dicom.quiet():
            header = dicom.read_header(record.path, _TAGS)
            patient, institution, *scanner = (dicom.tag_text(header, name) for name in _TAGS)
    except (Refused, OSError) as error:
        return record, [getattr(error, "strerror", None) or str(error)]
    patient_id = record.patient_id or pseudonym(patient, "p")
    source = record.source or pseudonym(institution or " ".join(scanner).strip(), "s")
    return replace(record, patient_id=patient_id, source=source), wrong


def pseudonym(value: str, prefix: str) -> str:
    """``prefix`` and 16 hexadecimal digits; ``""`` for a value that identifies no patient.

    Raises:
        UserError: The key cannot be read or written, or ``CVRNET_PATIENT_IDS`` has an unknown value.
    """
    if value.lower() in _NOBODY:
        return ""
    setting = os.environ.get(PLAIN, "hashed")
    if setting not in ("hashed", "plain"):
        raise UserError(f"{PLAIN}={setting!r}; expected hashed or plain")
    if setting == "plain":
        return value
    # The prefix is hashed too, so that a patient and a source of the same name do not get the same digits.
    return prefix + keyed_hash(f"{prefix}:{value}")[:16]


def keyed_hash(text: str) -> str:
    """HMAC-SHA-256 of a text with the user's key, in hexadecimal digits; errors as `pseudonym`."""
    return hmac.new(_key(), text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def _key() -> bytes:
    """The key from the environment, or the user's own, which is made when it is first needed."""
    if chosen := os.environ.get(KEY):
        return chosen.encode()
    path = user_folder("config") / "id-key"
    try:
        if not path.exists():
            _make_key(path)
        key = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: the key for pseudonyms cannot be read or made: {error.strerror}; or set {KEY}"
        ) from error
    if len(key) < 32:
        raise UserError(f"{path}: the key for patients' pseudonyms is damaged: delete it, or set {KEY}")
    return key


def _make_key(path: Path) -> None:
    """Write a new key that only this user can read. If several processes do so at once, the first one's key stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(aside, path)  # unlike a rename, this does not replace another process's key
    finally:
        aside.unlink(missing_ok=True)

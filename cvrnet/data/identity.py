"""Read patient and source from the tags of a DICOM file, and replace them by pseudonyms.

Patient numbers are so short that anybody can reverse a plain hash by trying all numbers. A pseudonym is therefore an
HMAC-SHA-256 with a key that only the user has. With the same key, a value has the same pseudonym in every data set.
Without the key, the pseudonym cannot be computed.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cvrnet.data.image import PICTURE_SUFFIXES, dicom_module, is_dicom_file
from cvrnet.data.limits import Refused
from cvrnet.data.patients import patient_ids
from cvrnet.data.record import Row
from cvrnet.errors import UserError
from cvrnet.files import user_folder
from cvrnet.formatting import count

# Environment variables
KEY = "CVRNET_ID_KEY"  #: the key; machines with equal keys give equal pseudonyms
PLAIN = "CVRNET_PATIENT_IDS"  #: ``plain`` keeps patient and source as the tags have them

_TAGS = ("PatientID", "InstitutionName", "Manufacturer", "ManufacturerModelName")


def identify(rows: Sequence[Row], say: Callable[[str], object]) -> list[Row]:
    """Return the images with patient and source; values that the data set does not give come from DICOM files' tags.

    The patient is PatientID. The source is InstitutionName or, if that is missing, Manufacturer and model.

    If only some images have a patient_id, PatientID is read from all DICOM files, so an image can have both ids. Images
    that share a patient_id or a PatientID then belong to one patient, and ``say`` is called with a line about this.
    """
    ids = patient_ids([record.patient_id for record, _ in rows])
    partly = any(ids) and not all(ids)
    tags, result = [], []
    for (record, wrong), patient in zip(rows, ids, strict=True):
        known = patient and record.source and not partly
        found, problem = (("", ""), "") if wrong or known else _read_tags(record.path)
        tags.append(found[0])
        result.append((record, [*wrong, problem] if problem else wrong, record.source or found[1]))
    patients = [patient or tag for patient, tag in zip(ids, tags, strict=True)]
    if partly and any(tags):
        patients = _joined(ids, tags)
        say(_how_named(ids, tags, patients))
    return [
        (replace(record, patient_id=patient, source=source), wrong)
        for (record, wrong, source), patient in zip(result, patients, strict=True)
    ]


def _read_tags(path: Path) -> tuple[tuple[str, str], str]:
    """Return the pseudonyms of a DICOM file's patient and source, and the reason why the file cannot be read.

    A value that is not known is ``""``, and so is the reason if the file can be read or is not a DICOM file.
    """
    if path.suffix.lower() in PICTURE_SUFFIXES or not is_dicom_file(path):
        return ("", ""), ""
    try:
        dicom = dicom_module()
        with dicom.quiet():
            header = dicom.read_header(path, _TAGS)
            patient, institution, *scanner = (dicom.tag_text(header, name) for name in _TAGS)
    except (Refused, OSError) as error:
        return ("", ""), getattr(error, "strerror", None) or str(error)
    return (pseudonym(patient, "p"), pseudonym(institution or " ".join(scanner).strip(), "s")), ""


def _joined(ids: Sequence[str], tags: Sequence[str]) -> list[str]:
    """Return each image's patient: images that have the same id or the same tag (not ``""``) are of one patient.

    A patient is named by one of the tags or, if there is no tag, by the id.

    >>> _joined(["1", "", "1", "2"], ["a", "a", "", ""])
    ['a', 'a', 'a', '2']
    """
    leader: dict[tuple[str, str], tuple[str, str]] = {}

    def find(name: tuple[str, str]) -> tuple[str, str]:
        while (above := leader.setdefault(name, name)) != name:
            leader[name] = name = leader[above]
        return name

    for patient, tag in zip(ids, tags, strict=True):
        if patient and tag:
            leader[find(("id", patient))] = find(("tag", tag))
    pairs = zip(ids, tags, strict=True)
    return [find(("tag", tag))[1] if tag else patient and find(("id", patient))[1] for patient, tag in pairs]


def _how_named(ids: Sequence[str], tags: Sequence[str], patients: Sequence[str]) -> str:
    number = sum(map(bool, ids))
    sentence = f"patient_id is given for {number:,} of {len(ids):,} images, so DICOM's PatientID is used, too"
    named = {patient for patient, given in zip(patients, ids, strict=True) if given}
    only_id = sum(not tag and patient == given != "" for given, tag, patient in zip(ids, tags, patients, strict=True))
    only_tag = sum(patient not in named for patient in patients if patient)
    if only_id and only_tag:
        only = f"{count(only_id, 'image')} with only a patient_id, {only_tag:,} with only a PatientID"
        sentence += f"; {only}: a patient may be in both groups"
    return sentence


def pseudonym(value: str, prefix: str) -> str:
    """Return the pseudonym of a patient or source: ``prefix`` and 16 hexadecimal digits.

    A placeholder such as ``unknown`` gives ``""``. With ``CVRNET_PATIENT_IDS=plain``, the value itself is returned.

    Raises:
        UserError: The key cannot be read or written, or ``CVRNET_PATIENT_IDS`` has an unknown value.
    """
    (value,) = patient_ids([value])
    if not value:
        return ""
    setting = os.environ.get(PLAIN, "hashed")
    if setting not in ("hashed", "plain"):
        raise UserError(f"{PLAIN}={setting!r}; expected hashed or plain")
    if setting == "plain":
        return value
    # The prefix is also hashed: otherwise a patient and a source of the same name would get the same digits.
    return prefix + keyed_hash(f"{prefix}:{value}")[:16]


def keyed_hash(text: str) -> str:
    """Return the HMAC-SHA-256 of a text with the user's key, in hexadecimal digits.

    Raises:
        UserError: The key cannot be read or written.
    """
    return hmac.new(_key(), text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def _key() -> bytes:
    """Return the key in ``CVRNET_ID_KEY`` or, without it, in the user's key file, which is made on first use."""
    if chosen := os.environ.get(KEY):
        return chosen.encode()
    path = user_folder("config") / "id-key"
    try:
        if not path.exists():
            _make_key(path)
        key = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: the key for pseudonyms cannot be read or created ({error.strerror}); correct this, or set {KEY} "
            "to a key"
        ) from error
    if len(key) < 32:
        raise UserError(f"{path}: the key for patients' pseudonyms is damaged: delete this file, or set {KEY} to a key")
    return key


def _make_key(path: Path) -> None:
    """Write a new key that only this user can read. If several processes write one at once, the first key is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(aside, path)  # unlike a rename, this does not replace another process's key
    finally:
        aside.unlink(missing_ok=True)

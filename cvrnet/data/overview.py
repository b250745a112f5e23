"""Summarise a data set: counts, and the sizes and bit depths of its files; no image is decoded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cvrnet.data.cells import label_problem, spelling_problems
from cvrnet.data.data_set import DataPath, DataSet
from cvrnet.data.finding_columns import finding_columns, plain_cell
from cvrnet.data.finding_labels import SEPARATOR, contradiction, is_no_finding
from cvrnet.data.image import dicom_module, is_dicom, open_header, split_frame
from cvrnet.data.limits import Refused
from cvrnet.data.record import Record
from cvrnet.data.scan import DataError, scan_records
from cvrnet.data.splits import unused_split
from cvrnet.files import open_regular

UNKNOWN = "(none)"
MOST_SIZES = 10  # rarer sizes are counted together
_THREADS = 4
_DEPTHS = {
    **{"1": "1-bit", "L": "8-bit grey", "P": "8-bit palette", "LA": "8-bit grey", "I": "32-bit grey"},
    **{"F": "floating-point grey", "RGB": "8-bit colour", "RGBA": "8-bit colour", "CMYK": "8-bit colour"},
}
_PATIENTS = (("1 image", 1, 1), ("2 to 4 images", 2, 4), ("5 to 9 images", 5, 9), ("10 or more", 10, 2**63))
Row = dict[str, Any]


@dataclass(frozen=True)
class Overview:
    """The result of `look_over`.

    Attributes:
        records: The images.
        labels: The labels or findings of each image.
        rows: The rows of a table, as dictionaries with four keys: ``what`` (such as ``source``), ``value`` (such as a
            source's name), ``images`` (the number of images) and ``patients`` (the number of patients; None if an image
            of this row has no patient id).
        problems: One line for each problem of an image, a file, the labels or the whole data set.
    """

    records: list[Record]
    labels: list[tuple[str, ...]]
    rows: list[Row]
    problems: list[str]


def look_over(
    data: DataPath,
    *,
    say: Callable[[str], object] = lambda line: None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Overview:
    """Count a data set's images and patients by label, source, split, view, size and depth.

    A label that names several findings, separated by ``|``, counts for each of them. Without labels, columns whose
    values are 1, 0, -1 or empty are findings, and each 1 counts. ``say`` is as in `read_records`; ``progress`` is
    called with the number of files read and the total.

    Raises:
        DataError: No image can be used.
    """
    labelled = not DataSet.of(data).is_manifest  # for a manifest, labels are checked later: they may be findings
    records, problems = scan_records(data, labelled=labelled, min_classes=1, allow_shared_patients=True, say=say)
    if not records:
        raise DataError(problems, data)
    if warning := unused_split(records):
        say(f"Warning: {warning}")
    labels = labels_of(records)
    if not labelled and all(len(names) < 2 for names in labels) and any(record.label for record in records):
        problems += [r.problem(reason) for r in records if (reason := label_problem(r.label))]
        problems += spelling_problems(records)
    problems += [r.problem(reason) for r in records if (reason := contradiction(r.label))]
    facts: list[tuple[str, str]] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for record, (size, depth, problem) in zip(records, pool.map(_facts, records), strict=True):
            facts.append((size, depth))
            problems += [record.problem(problem)] if problem else []
            progress(len(facts), len(records))
    return Overview(records, labels, _count(records, labels, facts), problems)


def labels_of(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Return the labels of each image.

    If any image of the data set has a ``label``, an image's labels are the names in its ``label``, which are separated
    by ``|``. Otherwise, an image's labels are the findings whose column is 1.
    """
    if any(record.label for record in records):
        return [tuple(filter(None, map(str.strip, record.label.split(SEPARATOR)))) for record in records]
    findings = [
        *finding_columns(records),
        *filter(is_no_finding, dict.fromkeys(c for r in records for c in r.metadata)),
    ]
    return [tuple(c for c in findings if plain_cell(r.metadata.get(c, "")) == "1") for r in records]


def _facts(record: Record) -> tuple[str, str, str]:
    """Return an image file's size and bit depth (``""`` if not known), and why it cannot be read (``""`` if it can)."""
    try:
        path, _ = split_frame(record.path)
        with open_regular(path) as file:
            if is_dicom(file):
                return (*_dicom_facts(path), "")
            stored = open_header(file)
            depth = "16-bit grey" if stored.mode.startswith("I;16") else _DEPTHS.get(stored.mode, stored.mode)
            return f"{stored.width} x {stored.height}", depth, ""
    except Refused as refused:
        return "", "", str(refused)
    except Exception as error:  # noqa: BLE001 - on damaged files Pillow's readers raise nearly every built-in exception
        return "", "", getattr(error, "strerror", None) or f"damaged or not supported: {error}"


def _dicom_facts(path: str) -> tuple[str, str]:
    dicom = dicom_module()
    with dicom.quiet():
        header = dicom.read_header(path, ("Rows", "Columns", "BitsStored", "SamplesPerPixel"))
        height, width, bits, samples = (
            dicom.tag_text(header, name) for name in ("Rows", "Columns", "BitsStored", "SamplesPerPixel")
        )
    kind = "colour" if samples == "3" else "grey"
    return f"{width} x {height}" if width and height else "", f"{bits}-bit {kind} (DICOM)" if bits else ""


def _count(records: Sequence[Record], labels: Sequence[Sequence[str]], facts: Sequence[tuple[str, str]]) -> list[Row]:
    groups: dict[str, defaultdict[str, list[Record]]] = {
        what: defaultdict(list) for what in ("label", "source", "split", "view", "size", "depth")
    }
    for record, names, (size, depth) in zip(records, labels, facts, strict=True):
        values: dict[str, Iterable[str]] = {"label": names or [UNKNOWN]}
        one = {"source": record.source, "split": record.split, "view": record.view, "size": size, "depth": depth}
        for what, of in (values | {what: [value or UNKNOWN] for what, value in one.items()}).items():
            for value in of:
                groups[what][value].append(record)
    rows = [_row("images", "all", records), *_patient_rows(records)]
    for what, found in groups.items():
        ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
        shown = ordered[:MOST_SIZES] if what == "size" else ordered
        rows += [_row(what, value, members) for value, members in shown]
        if rest := ordered[len(shown) :]:
            rows.append(_row(what, f"{len(rest):,} other sizes", [record for _, of in rest for record in of]))
    return rows


def _row(what: str, value: str, records: Sequence[Record]) -> Row:
    patients = {record.patient_id for record in records} - {""}
    known = all(record.patient_id for record in records)
    return {"what": what, "value": value, "images": len(records), "patients": len(patients) if known else None}


def _patient_rows(records: Sequence[Record]) -> list[Row]:
    """Return a row for each group of patients (with 1, 2 to 4, ... images), and one for images without a patient id."""
    of_patient: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        of_patient[record.patient_id].append(record)
    unknown = of_patient.pop("", [])
    rows = []
    for text, least, most in _PATIENTS:
        inside = [of for of in of_patient.values() if least <= len(of) <= most]
        if inside:
            rows.append(_row("patient", text, [record for of in inside for record in of]))
    return [*rows, _row("patient", UNKNOWN, unknown)] if unknown else rows

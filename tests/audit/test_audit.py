"""The audit's findings: tables, copies and probes, each on data whose truth is known."""

import csv
import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats.contingency import association

from cvrnet.audit import Finding, audit, read_audited, write_audit
from cvrnet.audit.duplicates import duplicate_findings, exact_copies, near_copies
from cvrnet.audit.local_features import VARIANTS, describe
from cvrnet.audit.measurements import ImageFacts, Measurements, measure, size_vector
from cvrnet.audit.metadata_findings import cramers_v, patient_findings, source_findings
from cvrnet.audit.probes import MIN_PATIENTS, NO_DISEASE, probe
from cvrnet.audit.shortcuts import MARGIN, best_rule
from cvrnet.data import Record, read_records, write_phantoms
from tests.audit.test_wrong_pictures import needs_lite


def record(index: int, label="NOR", source="a", patient="", split="") -> Record:
    return Record(Path(f"/{index}.png"), f"{index}.png", label, source, patient, split)


# --- labels, sources, patients


@given(st.lists(st.lists(st.integers(1, 60), min_size=3, max_size=3), min_size=2, max_size=4))
def test_cramers_v_is_at_most_scipys_without_the_correction_of_bias(rows):
    table = np.array(rows)
    assert 0 <= cramers_v(table) <= association(table, "cramer", correction=False) + 1e-9


def test_cramers_v_nears_scipys_for_many_images():
    table = np.array([[30, 10, 5], [8, 40, 12]]) * 1000
    assert cramers_v(table) == pytest.approx(association(table, "cramer", correction=False), abs=1e-3)


def test_cramers_v_of_independent_draws_is_small():
    rng = np.random.default_rng(0)
    table = np.histogram2d(rng.integers(3, size=300), rng.integers(8, size=300), (3, 8))[0].astype(int)
    assert cramers_v(table) < 0.1


def test_a_class_from_one_source_is_severe():
    records = [record(i, "NOR", "ab"[i % 2]) for i in range(20)] + [record(i, "CVP", "b") for i in range(20, 40)]
    found = {f.code: f for f in source_findings(records)}
    assert found["class-source:CVP"].severity == "severe"
    assert "class-source:NOR" not in found
    cells = {(r["label"], r["source"]): r["images"] for r in found["label-source"].figures["table"]}
    assert cells == {("NOR", "a"): 10, ("NOR", "b"): 10, ("CVP", "a"): 0, ("CVP", "b"): 20}


def test_one_source_is_no_independent_source():
    (finding,) = source_findings([record(0), record(1, "CVP")])
    assert (finding.code, finding.severity) == ("independent-source", "warning")
    assert "there is no independent source" in finding.sentence


@pytest.mark.parametrize(
    ("sizes", "severe"),
    [
        ([5, *[1] * 30], True),  # 5 of 35
        ([4, *[1] * 20], False),  # a tenth, but few
        ([5, *[1] * 45], False),  # exactly a tenth
        ([25] * 4, False),  # four volumes
        ([12, *[4] * 15], True),
        ([11, *[4] * 15], False),  # not three times as many as usual
        ([10], True),
        ([20, 20, *[1] * 40], True),
    ],
)
def test_a_patient_of_very_many_images(sizes, severe):
    ids = [str(patient + 1) for patient, size in enumerate(sizes) for _ in range(size)]
    found = [
        f for f in patient_findings([record(i, patient=p) for i, p in enumerate(ids)]) if f.code == "patient-share"
    ]
    assert [f.severity for f in found] == ["severe"] * severe
    if severe:
        largest = [row["images"] for row in found[0].figures["table"]]
        assert largest == sizes[: len(largest)]
        assert len(found[0].files) == sum(largest)


def test_patients_shared_and_missing():
    records = [
        record(0, "NOR", "a", "p1", "train"),
        record(1, "CVP", "a", "p1", "test"),
        record(2, "CVP", "b", "p2", "test"),
        record(3, "CVP", "b"),
    ]
    found = {f.code: f for f in patient_findings(records)}
    assert {code: f.severity for code, f in found.items()} == {
        "patient-id": "warning",
        "patient-splits": "severe",
        "patient-labels": "note",
    }
    assert found["patient-id"].files == ("3.png",)
    assert found["patient-splits"].files == ("0.png", "1.png")


# --- copies


def measured(folder: Path, pictures: dict[str, np.ndarray]) -> Measurements:
    records = []
    for number, (name, pixels) in enumerate(pictures.items()):
        Image.fromarray(pixels).save(folder / name)
        records.append(Record(folder / name, name, "NOR", "a", f"p{number}"))
    (folder / "arrays").mkdir()
    found, problems = measure(records, folder / "arrays")
    assert not problems
    return found


def copies(picture: np.ndarray) -> dict[str, np.ndarray]:
    """The same exposure as it comes back from papers, viewers and screenshots."""
    height, width = picture.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 5, 1)
    return {
        "crop": picture[height // 12 : -height // 20, width // 15 : -width // 10],
        "rotation": cv2.warpAffine(picture, turn, (width, height), borderMode=cv2.BORDER_REPLICATE),
        "gamma": np.rint(255 * (picture / 255) ** 1.7).astype(np.uint8),
        "quality": cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 0),
        "frame": cv2.copyMakeBorder(picture, 9, 14, 20, 5, cv2.BORDER_CONSTANT, value=255),
        "mirror": np.ascontiguousarray(picture[:, ::-1]),
        "negative": 255 - picture,
        "turned": np.ascontiguousarray(np.rot90(picture)),
    }


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> list[np.ndarray]:
    manifest = write_phantoms(tmp_path_factory.mktemp("films") / "p", 12, size=256)
    return [np.array(Image.open(r.path)) for r in read_audited(manifest)[0]]


def test_made_copies_are_found_and_nothing_else(films, tmp_path):
    made = copies(films[0])
    pictures = {f"{i}.png": film for i, film in enumerate(films)} | {f"{k}.png": v for k, v in made.items()}
    found = measured(tmp_path, pictures)
    pairs = {frozenset((found.records[c.first].name, found.records[c.second].name)) for c in near_copies(found)}
    family = {"0.png"} | {f"{name}.png" for name in made}
    assert {name for pair in pairs for name in pair} == family
    assert all(pair <= family for pair in pairs)


@pytest.mark.parametrize(("most", "seed", "both"), [(14, 0, True), (7, 5, True), (7, 0, False)])
def test_of_very_many_images_some_are_compared_and_the_finding_says_so(films, tmp_path, monkeypatch, most, seed, both):
    """The one pair of near-duplicates is found if both of its images are drawn."""
    pictures = {f"{i}.png": film for i, film in enumerate(films)}
    pictures |= {"exact.png": films[1], "near.png": copies(films[0])["gamma"]}
    found = measured(tmp_path, pictures)
    monkeypatch.setattr("cvrnet.audit.duplicates.MOST_IMAGES", most)
    exact, similar = duplicate_findings(found, seed=seed)
    assert set(exact.files) == {"1.png", "exact.png"}
    assert set(similar.files) == ({"0.png", "near.png"} if both else set())
    told = "Only 7 of the 14 images, drawn at random, were compared with one another."
    assert similar.sentence.endswith(told) == (most == 7)


def test_a_copy_in_another_file_is_exact(films, tmp_path):
    pictures = {"a.png": films[0], "b.bmp": films[0], "c.png": films[1], "d.png": films[0]}
    found = exact_copies(measured(tmp_path, pictures))
    assert {(c.first, c.second, c.kind) for c in found} == {(0, 1, "pixels"), (0, 3, "file")}


@pytest.mark.parametrize("variant", ["mirrored", "negative"])
def test_descriptors_of_a_mirrored_or_negative_picture_are_those_in_another_order(films, variant):
    other = films[0][:, ::-1] if variant == "mirrored" else 255 - films[0]
    (_, a), (_, b) = describe(films[0]), describe(np.ascontiguousarray(other))
    a, b = (x / np.linalg.norm(x.astype(float), axis=1, keepdims=True) for x in (a, b))
    straight, ordered = np.median((a @ b.T).max(1)), np.median((a[:, VARIANTS[variant]] @ b.T).max(1))
    assert ordered > 0.97
    assert ordered > straight


# --- shortcut probes


def invented(n: int, tie: bool) -> Measurements:
    """Measurements of images in which nothing, or the border alone, tells the label."""
    rng = np.random.default_rng(0)
    records = [record(i, "NOR" if i % 2 else "CVP", "a", f"p{i // 2}") for i in range(n)]
    vectors = {name: rng.integers(100, 130, (n, 32)).astype(np.uint8) for name in ("border", "corners", "histogram")}
    vectors |= {name: rng.integers(100, 130, (n, 64)).astype(np.uint8) for name in ("thumbnail", "pixels")}
    size = rng.integers(200, 240, (n, 2))
    if tie:
        vectors["border"][::2] += 40
        size[::2, 1] = 260
    vectors |= {"size": np.array([size_vector(*pair) for pair in size]), "compression": np.zeros((n, 1))}
    facts = [
        ImageFacts("h", "h", (h, w), "PNG L", {name: values[i] for name, values in vectors.items()})
        for i, (h, w) in enumerate(size)
    ]
    return Measurements(records, facts, large=np.empty(0))


@pytest.mark.parametrize("name", ["size", "format", "compression", "border", "corners", "histogram", "pixels"])
def test_a_probe_stays_at_chance_where_there_is_nothing(name):
    data = invented(200, tie=False)
    found = probe(data, name, [r.label for r in data.records])
    assert found.auc.low <= 0.5 + MARGIN
    assert found.excess <= MARGIN
    assert found.auc_permuted == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("name", ["size", "border"])
def test_a_probe_finds_what_is_tied_to_the_label(name):
    data = invented(120, tie=True)
    found = probe(data, name, [r.label for r in data.records])
    assert found.auc.low > 0.95
    assert found.auc_permuted == pytest.approx(0.5, abs=0.15)


def test_too_few_patients_are_not_probed():
    data = invented(2 * MIN_PATIENTS - 2, tie=True)
    assert probe(data, "border", [r.label for r in data.records]) is None


def test_the_rule_names_the_width():
    finding = best_rule(invented(120, tie=True))
    assert finding.severity == "severe"
    assert finding.figures["accuracy"] == 1


@pytest.fixture(scope="module")
def audited(tmp_path_factory) -> tuple[list[Record], list[Finding]]:
    """Records and findings of phantoms without a shortcut."""
    records, *_ = read_audited(write_phantoms(tmp_path_factory.mktemp("data") / "p", 100, size=64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cvrnet.audit.probes.PERMUTATIONS", 1)  # no test looks at the chance level
        return records, audit(records)


def test_phantoms_without_shortcut_are_clean(audited):
    found = {f.code: f for f in audited[1]}
    assert not [f.sentence for f in found.values() if f.severity == "severe"]
    for name in NO_DISEASE:
        assert found[f"label-probe:{name}"].figures["auc_low"] <= 0.5 + MARGIN


@needs_lite
def test_phantoms_without_shortcut_have_no_wrong_pictures(audited):
    (finding,) = [f for f in audited[1] if f.code == "wrong-pictures"]
    assert (finding.severity, finding.files) == ("note", ())
    assert finding.sentence == "No picture looks blank, badly exposed, turned, inverted or unlike all others."


class Links(HTMLParser):
    """Everything a page would fetch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("src", "href")]


def test_files(audited, tmp_path):
    records, findings = audited
    copy = dataclasses.replace(findings[0], sentence='<script>"&', figures={}, files=(records[0].name,))
    write_audit(tmp_path, [*findings, copy], records, "<data>")
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"audit.json", "audit.html", "findings.csv", "label-by-source.csv", "probes.csv", "floor.csv"}
    value = json.loads((tmp_path / "audit.json").read_text())
    assert value["images"] == 100
    assert len(value["findings"]) == len(findings) + 1
    page = (tmp_path / "audit.html").read_text()
    assert "<script" not in page
    assert "&lt;data&gt;" in page
    links = Links()
    links.feed(page)
    assert all(link.startswith("data:") for link in links.found)
    with (tmp_path / "probes.csv").open() as file:
        assert {row["probe"] for row in csv.DictReader(file)} >= {"border", "corners", "thumbnail"}


def test_files_that_use_another_number_of_bits_are_named(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(14):
        (tmp_path / "AB"[i % 2]).mkdir(exist_ok=True)
        values = rng.integers(0, 2 ** (16 if i == 3 else 11 if i == 6 else 12), (64, 64)).astype(np.uint16)
        values[0, :2] = 65535  # what a few pixels do not decide
        Image.fromarray(values if i < 12 else (values >> 8).astype(np.uint8)).save(tmp_path / "AB"[i % 2] / f"{i}.png")
    found = {finding.code: finding for finding in audit(read_records(tmp_path))}
    assert found["depths"].files == ("A/6.png", "B/3.png")
    assert found["depths"].severity == "warning"
    assert found["depths"].sentence.startswith("2 images of more than 8 bits use 11 or 16 bits, but 10 use 12")
    for name in found["depths"].files:
        (tmp_path / name).unlink()
    assert "depths" not in {finding.code for finding in audit(read_records(tmp_path))}

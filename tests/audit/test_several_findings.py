"""The audit of images with several findings: planted ties and company are found, and nothing is found without them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cvrnet.audit import audit, read_audited
from cvrnet.audit.metadata_findings import SEVERE_V, WARNING_V, cramers_v
from cvrnet.audit.several_findings import several_findings
from cvrnet.data import Record
from cvrnet.data.findings import finding_truth
from cvrnet.errors import UserError
from tests.support.films import write_films

NAMES = ["Edema", "Mass", "Nodule", "Rare"]


def invented(n: int = 300, seed: int = 0, unknown: float = 0.1, **columns: np.ndarray):
    """Records of three sources, and findings drawn at random; ``columns`` replace some of these."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, 4)) < [0.5, 0.3, 0.1, 0.02]).astype(float)
    truth[rng.random((n, 4)) < unknown] = np.nan
    for name, column in columns.items():
        truth[:, NAMES.index(name)] = column
    sources = rng.choice(list("abc"), n, p=[0.6, 0.3, 0.1])
    records = [Record(Path(f"/{i}"), f"{i}.png", "", str(s), f"p{i // 2}") for i, s in enumerate(sources)]
    return records, truth


def found(records, truth):
    return {finding.code: finding for finding in several_findings(records, NAMES, truth)}


@pytest.mark.parametrize("seed", range(20))
def test_independent_findings_are_clean(seed):
    of = found(*invented(seed=seed))
    assert {*of} == {"co-occurrence", "finding-sources", "patient-findings"}
    assert {finding.severity for finding in of.values()} == {"note"}


def test_co_occurrence_is_counted_where_both_are_known():
    records, truth = invented()
    of = found(records, truth)["co-occurrence"]
    row = next(row for row in of.figures["table"] if (row["first"], row["second"]) == ("Edema", "Mass"))
    edema, mass = truth[:, 0], truth[:, 1]
    assert row["both"] == sum((edema == 1) & (mass == 1))
    assert row["only_first"] == sum((edema == 1) & (mass == 0))
    assert row["only_second"] == sum((edema == 0) & (mass == 1))
    assert row["neither"] == sum((edema == 0) & (mass == 0))
    assert of.figures["images"]["Edema"] == sum(edema == 1)
    any_, several = sum((truth == 1).any(1)), sum((truth == 1).sum(1) > 1)
    assert of.sentence.startswith(
        f"Of 300 images, {any_} have a finding, and {several} have several findings; most often together: Ed"
    )


@pytest.mark.parametrize(("apart", "severity"), [(0, "severe"), (3, "warning"), (30, None)])
def test_findings_that_always_come_together(apart, severity):
    records, truth = invented(unknown=0)
    truth[:, 1] = truth[:, 0]
    truth[np.flatnonzero(truth[:, 0])[:apart], 1] = 0
    of = found(records, truth).get("together:Edema|Mass")
    assert (of and of.severity) == severity
    if of:
        assert "Edema and Mass nearly always occur together" in of.sentence
        assert of.figures["share"] == pytest.approx(1 - apart / (truth[:, 0] == 1).sum())


def test_a_finding_that_never_comes_alone():
    records, truth = invented(unknown=0)
    truth[:, 2] *= truth[:, 0]
    of = found(records, truth)
    assert of["never-alone"].severity == "warning"
    assert of["never-alone"].sentence == "Findings that almost never occur without Edema: Nodule."
    assert of["never-alone"].figures["table"] == [
        {"finding": "Nodule", "images": int(truth[:, 2].sum()), "with": "Edema", "share": 1.0}
    ]
    usual = np.where(np.arange(300) % 20 < 19, 1.0, 0.0)
    assert "never-alone" not in found(*invented(unknown=0, Edema=usual))  # what nearly all images have is no company


@pytest.mark.parametrize("strength", [0.0, 0.35, 0.9])
def test_a_finding_that_is_tied_to_its_source(strength):
    """The existing measure and thresholds decide, for this finding alone; where it is not known does not count."""
    records, truth = invented(600)
    rng = np.random.default_rng(1)
    of_a = np.array([r.source == "a" for r in records])
    truth[:, 1] = np.where(rng.random(600) < strength, of_a, rng.random(600) < 0.3)
    truth[::7, 1] = np.nan
    of = found(records, truth)
    known = ~np.isnan(truth[:, 1])
    table = np.array(
        [
            [sum((truth[known, 1] == v) & (np.array([r.source for r in records])[known] == s)) for s in "abc"]
            for v in (1, 0)
        ]
    )
    v = cramers_v(table)
    expected = "severe" if v >= SEVERE_V else "warning" if v >= WARNING_V else None
    assert ["severe", "warning", None][[0.9, 0.35, 0.0].index(strength)] == expected
    tie = of.get("label-source:Mass")
    assert (tie and tie.severity) == expected
    if tie:
        assert f"Mass and source are associated: Cramér's V {v:.2f}" in tie.sentence
        assert f"highest Cramér's V: {v:.2f} (Mass)" in of["finding-sources"].sentence
    assert not {f"label-source:{name}" for name in NAMES if name != "Mass"} & {*of}
    rows = {row["source"]: row for row in of["finding-sources"].figures["table"] if row["finding"] == "Mass"}
    assert [rows[s]["share"] for s in "abc"] == pytest.approx((table[0] / table.sum(0)).tolist())


def test_a_rare_finding_of_one_source():
    """Cramér's V of a rare finding is small; that all of its images have one source is found nevertheless."""
    records, truth = invented(600, unknown=0)
    truth[:, 3] = np.array([r.source == "a" for r in records]) & (np.arange(600) % 20 == 0)
    of = found(records, truth)
    assert "label-source:Rare" not in of
    assert of["class-source:Rare"].severity == "severe"
    number = int(truth[:, 3].sum())
    assert of["class-source:Rare"].sentence == f"All {number} images of Rare come from one source, a."
    assert not [code for code in of if code.startswith("class-source:") and code != "class-source:Rare"]


def test_a_finding_that_one_source_does_not_know():
    records, truth = invented()
    truth[np.array([r.source != "a" for r in records]), 1] = np.nan
    of = found(records, truth)
    assert of["independent-source:findings"].severity == "warning"
    assert of["independent-source:findings"].sentence.endswith("which cannot be tested on another source: Mass.")
    assert (
        "not compared, because fewer than 10 patients have them, or lack them: Rare" in of["finding-sources"].sentence
    )


def test_patients_who_have_a_finding_in_some_images():
    records, truth = invented(unknown=0)
    rows = {row["finding"]: row for row in found(records, truth)["patient-findings"].figures["table"]}
    pairs = truth[:, 0].reshape(-1, 2)
    assert rows["Edema"]["in_some_images_only"] == sum(pairs.sum(1) == 1)
    assert rows["Edema"]["patients"] == sum(pairs.any(1))


def marked_films(folder: Path) -> Path:
    """Films with a marker in the corner of those with ``Bright``; ``Left`` is of one source, ``Chance`` in none."""
    manifest = write_films(folder, 100, columns=True)
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        pixels = np.array(Image.open(folder / row["path"]))
        pixels[:6, -6:] = 255 if row["Bright"] == "1.0" else 0
        Image.fromarray(pixels).save(folder / row["path"])
        row |= {"source": "b" if row["Left"] == "1.0" else row["source"], "Chance": int(row["path"][0]) % 2}
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return manifest


def test_the_whole_audit_of_findings(tmp_path, cli):
    manifest = marked_films(tmp_path / "data")
    status, out, err = cli("audit", manifest, "--no-features", "-o", tmp_path / "audit", "--format", "json")
    assert status == 1, err
    assert "Images may have several findings: each finding is checked by itself" in err
    of = {finding["code"]: finding for finding in json.loads(out)}
    assert of["finding-probes:Bright"]["severity"] == "severe"
    assert of["finding-probes:Bright"]["sentence"].startswith("Bright is predictable from the border alone: AUC 1.00")
    assert of["finding-probes:Chance"]["severity"] == "note"
    assert of["class-source:Left"]["severity"] == "severe"
    assert "label-source:Bright" not in of
    assert of["label-source"]["sentence"].startswith("Some finding and source are")
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert "4 findings" in page
    assert "finding (images): share that also has" in page  # the table of those that come together
    assert "share with the finding, of the images where it is known" in page
    assert "Bright, whole data set" in page
    tables = {path.name for path in (tmp_path / "audit").glob("*.csv")}
    assert {"co-occurrence.csv", "finding-sources.csv", "patient-findings.csv"} <= tables
    status, _, err = cli("audit", manifest, "--findings", "Bright,Lft")
    assert (status, err.splitlines()[-1]) == (
        1,
        "Error: no finding 'Lft' in the data set; it has Bright, Left, Rare, Chance",
    )


def test_named_findings_and_uncertain_cells(tmp_path):
    manifest = write_films(tmp_path / "data", 60, columns=True)
    records, problems, names = read_audited(manifest, findings=("Left",), uncertain="positive")
    assert (problems, names) == ([], ["Left"])
    truth = finding_truth(records, names, "positive")[:, 0]
    assert [r.label == "Left" for r in records] == (truth == 1).tolist()
    assert len(records) == sum(r.metadata["Left"] != "" for r in read_audited(manifest)[0])


def test_a_label_that_contradicts_itself_is_refused(tmp_path, cli):
    manifest = write_films(tmp_path / "data", 20, columns=False)
    manifest.write_text(manifest.read_text().replace("p0,F,Bright|Left|Rare", "p0,F,Bright|No finding"))
    status, _, err = cli("audit", manifest)
    assert status == 1
    assert "label 'Bright|No finding' names findings and also No Finding" in err


@pytest.mark.parametrize(
    ("header", "row", "findings", "message"),
    [
        ("path,Edema,Mass", ",,", ["--findings", "Mass"], "no image has a known value for Mass"),
        (
            "path,Edema,Mass",
            ",1,0",
            ["--findings", "No finding"],
            "No finding is not a finding, but means that there are no findings",
        ),
        ("path,Edema,Edema", ",1,0", [], "a column is named twice: 'path, Edema, Edema'"),
        ("path,Edema,Mass", ",1,2", ["--findings", "Mass"], "Mass is '2'; expected 1, 0, -1 or empty"),
        ("path,Edema,Mass", ",1,0", ["--columns", "path=file"], "--columns path='file': no such column"),
    ],
)
def test_bad_findings_are_refused_in_one_line(header, row, findings, message, tmp_path, cli):
    Image.new("L", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "m.csv").write_text(f"{header}\na.png{row}\n")
    status, out, err = cli("audit", tmp_path / "m.csv", *findings)
    assert (status, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("cells", ["1", "0"])
def test_a_finding_that_all_have_or_none_has(cells):
    records, truth = invented(unknown=0, Mass=np.full(300, float(cells)))
    of = found(records, truth)
    assert {finding.severity for finding in of.values()} == {"note"}
    assert "Mass" in of["finding-sources"].sentence


def test_a_model_is_not_audited_on_findings(tmp_path, monkeypatch):
    records, _, names = read_audited(write_films(tmp_path / "data", 20, columns=False))
    with pytest.raises(UserError, match="--model needs images with one label each"):
        audit(records, names=names, examination=object())

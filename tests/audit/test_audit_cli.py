"""``cvrnet audit``: exit status, formats, files, and bad data."""

import json
import shutil

import pytest

from cvrnet.data import write_phantoms


@pytest.fixture
def data(tmp_path):
    """A small data set in which one image is there twice, under two splits of one patient."""
    folder = tmp_path / "data"
    write_phantoms(folder, 12, size=64)
    lines = (folder / "manifest.csv").read_text().splitlines()
    shutil.copy(folder / lines[1].split(",")[0], folder / "images" / "copy.png")
    rows = [lines[0] + ",split", *(line + ",train" for line in lines[1:])]
    cells = rows[1].split(",")
    rows.append(",".join(["images/copy.png", *cells[1:-1], "test"]))
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_severe_findings_make_exit_status_1(cli, data, tmp_path):
    status, out, err = cli("audit", data, "-o", tmp_path / "audit")
    assert status == 1
    assert "1 patient appears in more than one split." in out
    assert "2 images are exact copies of others, in 1 cluster: 1 cluster with several splits." in out
    assert "audit.html" in err
    assert "data:image/jpeg;base64," in (tmp_path / "audit" / "audit.html").read_text()
    status, _, err = cli("audit", data, "-o", tmp_path / "audit")
    assert status == 1
    assert "--overwrite replaces it" in err


def test_an_audit_replaces_only_an_audit(cli, data, tmp_path, monkeypatch):
    out = tmp_path / "audit"
    assert cli("audit", data, "-o", out)[0] == 1
    (out / "mine.txt").write_text("mine")
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert "no such folder" in cli("audit", tmp_path / "nowhere", "-o", out, "--overwrite")[2]
    with monkeypatch.context() as patch:
        patch.setattr("cvrnet.audit.audit_data.render_page", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cli("audit", data, "-o", out, "--overwrite")
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert "audit.html" in cli("audit", data, "-o", out, "--overwrite")[2]
    assert (out / "mine.txt").read_text() == "mine"
    (out / "audit.json").write_text('{"advisories": {}}')
    assert "audit.json was not written by `cvrnet audit`" in cli("audit", data, "-o", out, "--overwrite")[2]
    (out / "audit.json").unlink()
    assert "exists and is not part of an earlier result" in cli("audit", data, "-o", out)[2]
    assert not (out / "audit.json").exists()


def test_json(cli, data):
    status, out, _ = cli("audit", data, "--format", "json")
    assert status == 1
    findings = {f["code"]: f for f in json.loads(out)}
    assert findings["exact-duplicates"]["severity"] == "severe"
    assert "images/copy.png" in findings["exact-duplicates"]["files"]


def test_images_that_cannot_be_read_are_a_finding(cli, data):
    (data / "images" / "copy.png").write_bytes(b"no image")
    _, out, _ = cli("audit", data, "--format", "csv")
    assert "1 row or image cannot be used: manifest.csv:14: images/copy.png: not a" in out


def test_no_data(cli, tmp_path):
    status, _, err = cli("audit", tmp_path / "nowhere")
    assert (status, err) == (1, f"Error: {tmp_path / 'nowhere'}: no such folder or CSV manifest\n")

"""What every job does with the audit of its data: once, before the first epoch, and its severe findings reported."""

import json
import sys

import pytest

from cvrnet.data import read_records, write_phantoms
from cvrnet.workflows import Callbacks
from cvrnet.workflows.pages import audit_run

TRAINING = ["--encoders", "test_resnet,test_efficientnet", "--no-pretrained", "--img-size", "64", "--epochs", "1"]
SEVERE = "severe: Class and source are associated"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Phantoms whose labels and sources are tied."""
    return write_phantoms(tmp_path_factory.mktemp("data") / "p", 36, size=64, shortcut=True)


def test_train_tells_the_severe_findings_before_the_first_epoch_and_keeps_the_audit(cli, data, tmp_path):
    run = tmp_path / "run"
    status, _, err = cli("train", data, "-o", run, *TRAINING)
    assert status == 0
    assert 0 < err.index(SEVERE) < err.index("epoch   1/1")
    assert json.loads((run / "audit.json").read_text())["severe"] >= 1
    assert (run / "audit.html").is_file()
    assert (run / "audit" / "label-by-source.csv").is_file()

    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    status, _, err = cli("train", data, "-o", run, *TRAINING)
    assert (status, "--resume continues it" in err, "Auditing" in err) == (1, True, False)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

    status, _, err = cli("evaluate", run, data, "-o", tmp_path / "evaluation")
    assert (status, SEVERE in err) == (0, True)
    assert (tmp_path / "evaluation" / "audit.json").is_file()
    status, _, err = cli("evaluate", run, data, "-o", tmp_path / "other", "--no-audit")
    assert (status, SEVERE in err, (tmp_path / "other" / "audit.json").exists()) == (0, False, False)


def test_a_run_that_is_interrupted_in_the_audit_resumes(cli, data, tmp_path, monkeypatch):
    def interrupt(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cvrnet.audit.audit", interrupt)
        status, _, err = cli("crossval", data, "-o", tmp_path, "--folds", 3, "--only-fold", 1, *TRAINING)
    assert (status, err.splitlines()[-1]) == (130, "Error: interrupted")
    assert not (tmp_path / "audit.json").exists()
    status, _, err = cli("crossval", data, "-o", tmp_path, "--folds", 3, "--only-fold", 1, "--resume", *TRAINING)
    assert (status, SEVERE in err) == (0, True)
    assert (tmp_path / "audit.json").is_file()


def audit(data, output):
    """The lines that auditing a run's data reports."""
    lines = []
    audit_run(output, data, read_records(data), Callbacks(say=lines.append))
    return lines


def test_the_same_data_is_audited_once_and_reported_again(data, tmp_path, monkeypatch):
    first = audit(data, tmp_path)
    assert any(line.startswith(SEVERE) for line in first)

    def refuse(*arguments, **named):
        raise AssertionError("audited again")

    monkeypatch.setattr("cvrnet.audit.audit", refuse)
    assert audit(data, tmp_path) == first[1:]  # without "Auditing the data set"
    with pytest.raises(AssertionError, match="audited again"):
        audit(write_phantoms(tmp_path / "other", 12, size=64), tmp_path)


@pytest.mark.parametrize("package", ["cv2", "cleanlab"])
def test_without_a_package_a_line_says_what_to_install(data, tmp_path, monkeypatch, package):
    for name in [name for name in sys.modules if name.partition(".")[0] == package or name.startswith("cvrnet.audit")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    said = f'The data set is not audited, because {package} is missing; pip install "cvrnet[audit]"'
    assert audit(data, tmp_path) == [said]
    assert not list(tmp_path.iterdir())

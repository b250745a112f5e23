"""Data sets of the ``datasets`` library, from local files: the Hub's own formats, without the Hub."""

import os
import shutil
from collections import Counter

import pytest

from cvrnet.data import DataError, hub_datasets, read_image, read_records, scan_records
from cvrnet.errors import UserError
from tests.conftest import TINY

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    datasets.disable_progress_bars()


@pytest.fixture
def records(phantoms):
    return read_records(phantoms)


@pytest.fixture
def table(records):
    """The phantoms as a ``Dataset``: bytes of the files, class numbers, patients."""
    classes = ["NOR", "NCP", "CVP"]  # in an order of its own
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=classes),
            "patient_id": datasets.Value("string"),
            "source": datasets.Value("string"),
            "note": datasets.Value("string"),
        }
    )
    rows = {
        "image": [{"bytes": r.path.read_bytes(), "path": r.path.name} for r in records],
        "label": [classes.index(r.label) for r in records],
        "patient_id": [r.patient_id for r in records],
        "source": [r.source for r in records],
        "note": ["seen" for _ in records],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def same(found, records):
    """The same pictures, labels and patients, in the same order."""
    assert len(found) == len(records)
    for ours, theirs in zip(found, records, strict=True):
        assert (ours.label, ours.patient_id, ours.source) == (theirs.label, theirs.patient_id, theirs.source)
        assert (read_image(ours.path) == read_image(theirs.path)).all()


def test_saved_to_disk(table, records, tmp_path):
    table.save_to_disk(tmp_path / "saved")
    found = read_records(f"hfds:{tmp_path / 'saved'}")
    same(found, records)
    assert {r.split for r in found} == {""}
    assert found[0].metadata == {"note": "seen"}
    assert len({r.name for r in found}) == len(found)
    stored = {r.path: r.path.stat().st_mtime_ns for r in found}
    again = read_records(f"hfds:{tmp_path / 'saved'}")
    assert {r.path: r.path.stat().st_mtime_ns for r in again} == stored  # written once
    assert again == found


def test_splits_are_the_data_sets_own(table, records, tmp_path):
    parts = {"train": range(24), "validation": range(24, 30), "test": range(30, 36)}
    datasets.DatasetDict({name: table.select(rows) for name, rows in parts.items()}).save_to_disk(tmp_path / "saved")
    found = read_records(f"hfds:{tmp_path / 'saved'}")
    same(found, records)
    assert Counter(r.split for r in found) == {"train": 24, "val": 6, "test": 6}


def test_parquet_files_as_on_the_hub(table, records, tmp_path):
    (tmp_path / "repository/data").mkdir(parents=True)
    table.to_parquet(tmp_path / "repository/data/train-00000-of-00001.parquet")
    same(read_records(f"hfds:{tmp_path / 'repository'}"), records)


def test_a_folder_of_images(phantoms, records, tmp_path):
    """The library's own reading of class folders; the files themselves are read, nothing is copied."""
    for r in records:
        (tmp_path / "images" / r.label).mkdir(parents=True, exist_ok=True)
        shutil.copy(r.path, tmp_path / "images" / r.label / f"{r.patient_id}-{r.path.name}")
    found = read_records(f"hfds:{tmp_path / 'images'}")
    assert Counter(r.label for r in found) == Counter(r.label for r in records)
    assert all(r.path.is_relative_to(tmp_path / "images") for r in found)


def test_what_is_wrong_is_named(table, tmp_path):
    with pytest.raises(UserError, match="hfds:no/such/thing: the data set cannot be loaded"):
        scan_records("hfds:no/such/thing")
    table.remove_columns("image").save_to_disk(tmp_path / "blind")
    with pytest.raises(DataError, match="no column of images"):
        read_records(f"hfds:{tmp_path / 'blind'}")
    table.remove_columns("label").save_to_disk(tmp_path / "unlabelled")
    with pytest.raises(DataError, match="no column of labels"):
        read_records(f"hfds:{tmp_path / 'unlabelled'}")
    assert len(read_records(f"hfds:{tmp_path / 'unlabelled'}", labelled=False)) == 36
    holes = table.map(lambda row, i: {"label": -1 if i == 3 else row["label"]}, with_indices=True)
    holes.save_to_disk(tmp_path / "holes")
    good, problems = scan_records(f"hfds:{tmp_path / 'holes'}")
    assert (len(good), len(problems)) == (35, 1)
    assert problems[0].endswith("empty label")


def test_train(table, tmp_path, cli):
    parts = {"train": range(24), "validation": range(24, 36)}
    datasets.DatasetDict({name: table.select(rows) for name, rows in parts.items()}).save_to_disk(tmp_path / "saved")
    options = ["--encoders", ",".join(TINY["encoders"]), "--img-size", "64", "--epochs", "1", "--no-pretrained"]
    status, out, err = cli("train", f"hfds:{tmp_path / 'saved'}", "-o", tmp_path / "run", *options)
    assert status == 0, err
    assert out.splitlines()[1].split()[:2] == ["val", "12"]
    status, out, err = cli("predict", tmp_path / "run", f"hfds:{tmp_path / 'saved'}", "--format", "csv")
    assert (status, len(out.splitlines())) == (0, 37), err


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_only_its_owner_can_read_a_stored_image(tmp_path):
    before = os.umask(0)
    try:
        path = hub_datasets._store(tmp_path / "images" / "hfds", b"pixels")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"pixels"
    assert path.stat().st_mode & 0o777 == 0o600
    assert {folder.stat().st_mode & 0o777 for folder in list(path.parents)[:3]} == {0o700}

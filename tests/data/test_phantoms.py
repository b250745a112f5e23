"""Phantoms: the same bytes from the same seed, labels that only the lungs tell, and a shortcut that is what it says."""

import csv
import itertools
import os
import shutil
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from cvrnet.data import class_names, read_records, write_phantoms
from cvrnet.data.drawing import draw_film
from cvrnet.data.phantoms import LABELS, MARKER_BOX, _plan
from cvrnet.errors import UserError
from tests.support.kills import stop_at


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("data") / "new" / "phantoms", 240, seed=2, size=64)


@pytest.fixture(scope="module")
def shortcut(tmp_path_factory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("data") / "shortcut", 60, seed=2, size=64, shortcut=True)


def test_the_same_seed_gives_the_same_bytes_and_a_shorter_set_is_a_beginning(tmp_path):
    for name, n, seed in (("a", 18, 3), ("b", 18, 3), ("short", 12, 3), ("other", 18, 4)):
        write_phantoms(tmp_path / name, n, seed=seed, size=64)
    a, b, short, other = (files(tmp_path / name) for name in ("a", "b", "short", "other"))
    assert a == b
    assert a.pop("manifest.csv").startswith(short.pop("manifest.csv"))
    assert short.items() < a.items()
    assert not set(other.values()) & set(a.values())


def test_sets_of_different_seeds_share_no_patient_and_no_name(tmp_path):
    """A model that was trained on one set has seen nothing of the other, also where both have the same sources."""
    sets = [read_records(write_phantoms(tmp_path / str(seed), 12, seed=seed, size=64)) for seed in (0, 1, 2)]
    for key in ("patient_id", "name"):
        for one, other in itertools.combinations([{getattr(r, key) for r in records} for records in sets], 2):
            assert one
            assert not one & other


def test_the_manifest_reads_back(manifest):
    table = rows(manifest)
    assert list(table[0]) == ["path", "label", "source", "patient_id", "view", "lung_mask", "lesion_mask"]
    records = read_records(manifest)
    assert records == read_records(manifest.parent)
    assert [r.name for r in records] == [row["path"] for row in table]
    assert class_names(records) == ["CVP", "NCP", "NOR"]
    assert {r.source for r in records} == {"site-a", "site-b"}
    assert all(r.lung_mask and r.patient_id and not r.split and not r.metadata for r in records)
    named = {row[c] for row in table for c in ("path", "lung_mask", "lesion_mask") if row[c]}
    assert named | {"manifest.csv"} == set(files(manifest.parent))


def test_images_and_masks(manifest):
    for row in rows(manifest):
        image, lungs = (Image.open(manifest.parent / row[c]) for c in ("path", "lung_mask"))
        assert (image.mode, lungs.mode) == ("L", "1")
        assert image.size == lungs.size == ((64, 64) if row["source"] == "site-a" else (59, 64))
        lung = np.asarray(lungs)
        middle = lung.shape[1] // 2
        assert 0.2 < lung.mean() < 0.5
        assert not lung[[0, -1]].any()
        assert (row["lesion_mask"] == "") == (row["label"] == "NOR")
        if row["lesion_mask"]:
            lesion = pixels(manifest.parent / row["lesion_mask"])
            assert lesion.shape == lung.shape
            assert not (lesion & ~lung).any()
            assert 0.005 < lesion.mean() < 0.15
            sides = [bool(half.any()) for half in (lesion[:, :middle], lesion[:, middle:])]
            assert sum(sides) == (1 if row["label"] == "NCP" else 2), row


def test_cvp_is_low_and_at_the_edge():
    height, depth = [], []
    for patient in range(40):
        _, lungs, lesion = draw_film("CVP", seed=0, patient=patient, image=patient, size=64)
        y, x = (np.abs(np.mgrid[:64, :64][k] - centre) for k, centre in ((0, 0), (1, 31.5)))
        height.append(y[lesion].mean() - y[lungs].mean())
        depth.append(x[lesion].mean() - x[lungs].mean())
    assert np.mean(height) > 2
    assert np.mean(np.array(height) > 0) > 0.75
    assert min(depth) > 2


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    patient=st.integers(1, 500),
    label=st.sampled_from(["NCP", "CVP"]),
    look=st.integers(0, 4),
)
def test_the_label_changes_the_lungs_and_nothing_else(seed, patient, label, look):
    def draw(label):
        return draw_film(label, seed=seed, patient=patient, image=7, look=look, size=96)

    (healthy, lungs, none), (ill, same_lungs, lesion) = draw("NOR"), draw(label)
    near = np.asarray(Image.fromarray(lungs).convert("L").filter(ImageFilter.MaxFilter(5))) > 0
    np.testing.assert_array_equal(lungs, same_lungs)
    np.testing.assert_allclose(healthy[~near].astype(int), ill[~near].astype(int), rtol=0, atol=1)  # rounding
    assert not none.any()
    assert lesion.any()
    assert ill[lesion].mean() - healthy[lesion].mean() > 12


def test_what_should_not_matter_tells_nothing(manifest):
    """Border pixels and mean brightness, by cross-validation over patients."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table = rows(manifest)
    labels, patients = [row["label"] for row in table], [row["patient_id"] for row in table]
    images = [pixels(manifest.parent / row["path"])[:, :59] for row in table]
    border = [np.concatenate([a[:2].ravel(), a[-2:].ravel(), a[:, :2].ravel(), a[:, -2:].ravel()]) for a in images]
    for features in (border, [[a.mean()] for a in images]):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
        p = cross_val_predict(model, features, labels, groups=patients, cv=folds, method="predict_proba")
        assert roc_auc_score(labels, p, multi_class="ovr") < 0.6


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), n_sources=st.integers(2, 4))
def test_label_and_source_are_independent(seed, n_sources):
    films = list(islice(_plan(seed, n_sources, False), 21 * n_sources))
    assert set(Counter((f.label, f.source) for f in films).values()) == {7}
    for n in (12, 25, 40):
        counts = Counter(f.label for f in films[:n])
        assert set(counts) == set(LABELS)
        assert max(counts.values()) - min(counts.values()) <= 3


@pytest.mark.parametrize("shortcut", [False, True])
def test_patients(shortcut):
    images, sources, labels = Counter(), defaultdict(set), defaultdict(set)
    for i, film in enumerate(islice(_plan(0, 2, shortcut), 2100)):
        assert film.index == i
        images[film.patient] += 1
        assert film.number == images[film.patient]
        sources[film.patient].add(film.source)
        labels[film.patient].add(film.label)
    assert set(images.values()) == {1, 2, 3}
    assert {len(s) for s in sources.values()} == {1}
    assert 0.02 < np.mean([len(s) == 2 for s in labels.values()]) < 0.07
    assert max(len(s) for s in labels.values()) == 2


@pytest.mark.parametrize("n_sources", [2, 3])
def test_the_shortcut_ties_the_label_to_the_first_source(n_sources):
    films = list(islice(_plan(0, n_sources, True), 2100))
    share = {label: np.mean([f.source == 0 for f in films if f.label == label]) for label in LABELS}
    assert 0.85 < share["CVP"] < 0.93
    assert 0.07 < share["NOR"] < 0.15
    assert 0.07 < share["NCP"] < 0.15
    assert len({f.source for f in films}) == n_sources
    plain = islice(_plan(0, n_sources, False), 2100)
    assert [(f.patient, f.label) for f in films] == [(f.patient, f.label) for f in plain]


def test_the_marker_is_on_the_first_source_and_nothing_else_is_changed(shortcut):
    for film, row in zip(_plan(2, 2, True), rows(shortcut), strict=False):
        image = pixels(shortcut.parent / row["path"])
        plain, _, _ = draw_film(film.label, seed=2, patient=film.patient, image=film.index, look=film.source, size=64)
        changed = np.argwhere(image != plain)
        assert bool(len(changed)) == (row["source"] == "site-a")
        if len(changed):
            left, top, right, bottom = (f * s for f, s in zip(MARKER_BOX, image.shape[::-1] * 2, strict=True))
            assert np.all(changed >= np.floor((top, left)))
            assert np.all(changed < np.ceil((bottom, right)))
            assert np.all(image[tuple(changed.T)] == 250)


def test_an_empty_folder_is_used_and_progress_told(tmp_path):
    told = []
    manifest = write_phantoms(tmp_path, 12, size=64, sources=["x", "y", "z"], progress=lambda *a: told.append(a))
    assert manifest == tmp_path / "manifest.csv"
    assert told == [(i, 12) for i in range(1, 13)]
    assert {row["source"] for row in rows(manifest)} == {"x", "y", "z"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "lesions", "lungs", "manifest.csv"]


def test_a_failure_leaves_nothing(tmp_path):
    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path / "phantoms", 12, size=64, progress=stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 11}, r"n=11 is too small; expected at least 12"),
        ({"size": 63}, r"size=63 is too small"),
        ({"seed": -1}, r"seed=-1 is too small; expected at least 0"),
        ({"sources": ["a"]}, r"sources=\['a'\]: expected two or more names, all different"),
        ({"sources": ["a", "b", "a"]}, r"expected two or more names, all different"),
        ({"sources": "ab"}, r"sources='ab': expected two"),
        ({"sources": ["a", "../b"]}, r"source '../b' cannot be the name of a folder"),
        ({"sources": ["a", ""]}, r"source '' cannot be the name of a folder"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        write_phantoms(tmp_path / "phantoms", **arguments)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_what_exists_is_left_alone(tmp_path):
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds keep\.txt, which `cvrnet phantoms` did not write; choose another"):
        write_phantoms(tmp_path, 12, size=64)
    write_phantoms(tmp_path / "set", 12, size=64)
    with pytest.raises(UserError, match=r"set holds phantoms already; --overwrite replaces them"):
        write_phantoms(tmp_path / "set", 12, size=64)
    (tmp_path / "set" / "manifest.csv").unlink()
    with pytest.raises(UserError, match="has a manifest that `cvrnet phantoms` did not write"):
        write_phantoms(tmp_path / "set", 12, size=64)
    shutil.rmtree(tmp_path / "set")
    with pytest.raises(UserError, match=r"keep\.txt exists and is not a folder"):
        write_phantoms(tmp_path / "keep.txt", 12, size=64)
    assert files(tmp_path) == {"keep.txt": b"mine"}


def test_a_set_is_replaced_when_the_new_one_is_complete(tmp_path, cli):
    write_phantoms(tmp_path / "set", 12, size=64)
    (tmp_path / "link").symlink_to(tmp_path / "set")
    before = files(tmp_path / "set")
    status, _, err = cli("phantoms", "-o", tmp_path / "link", "-n", 6, "--size", 64, "--overwrite")
    assert (status, err) == (1, "Error: n=6 is too small; expected at least 12\n")

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path / "set", 15, size=64, overwrite=True, progress=stop)
    assert files(tmp_path / "set") == before
    assert cli("phantoms", "-o", tmp_path / "link", "-n", 15, "--size", 64, "--overwrite")[0] == 0
    write_phantoms(tmp_path / "fresh", 15, size=64)
    assert files(tmp_path / "set") == files(tmp_path / "fresh")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fresh", "link", "set"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"manifest.csv": "path,label\nme.png,NOR\n", "me.png": "mine"}, r"holds m[^/]*\.png, which"),
        ({"manifest.csv": "path,label\n"}, "has a manifest that `cvrnet phantoms` did not write"),
        ({"images/mine.txt": "mine"}, r"holds images/mine\.txt, which `cvrnet phantoms` did not write"),
        ({"lungs/.git/config": "mine"}, "did not write"),
    ],
)
def test_only_a_set_of_phantoms_is_replaced(changes, reason, tmp_path):
    if len(changes) == 1:
        write_phantoms(tmp_path / "set", 12, size=64)
    for name, text in changes.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_text(text)
    before = files(tmp_path)
    with pytest.raises(UserError, match=reason):
        write_phantoms(tmp_path / "set", 12, size=64, overwrite=True)
    assert files(tmp_path) == before


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """The folder of a small set; not to be changed."""
    return write_phantoms(tmp_path_factory.mktemp("small") / "set", 12, size=64).parent


@pytest.mark.skipif(os.name != "posix", reason="forks")
@settings(max_examples=8, deadline=None, derandomize=True)
@given(point=st.integers(0, 130), full=st.booleans())
def test_a_kill_or_a_full_disk_at_any_point_leaves_a_whole_set(small, tmp_path_factory, point, full):
    folder = tmp_path_factory.mktemp("stopped") / "set"
    new = {"n": 12, "size": 64, "seed": 1}
    shutil.copytree(small, folder)
    before = files(folder)
    stop_at(point, lambda: write_phantoms(folder, **new, overwrite=True), full=full)
    between = files(folder) if folder.exists() else before
    write_phantoms(folder, **new, overwrite=True)
    assert between in (before, files(folder))
    assert [p.name for p in folder.parent.iterdir()] == ["set"]

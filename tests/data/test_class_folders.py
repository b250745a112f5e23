"""Folders as people have them: masks, splits, what systems leave behind, and symbolic links."""

import os
from pathlib import PurePosixPath

import pytest
from PIL import Image

from cvrnet.data import read_records, scan_records
from cvrnet.data.walk import walk
from cvrnet.inference.predict_paths import find_images
from tests.data.test_dicom import write
from tests.data.test_scan import touch

posix = pytest.mark.skipif(os.name != "posix", reason="needs symbolic links and FIFOs")


def test_folders_of_masks_are_masks(tmp_path):
    """The layout of the COVID-19 Radiography Database, and of COVID-QU-Ex."""
    touch(
        tmp_path, "A/images/1.png", "A/masks/1.png", "B/images/2.png", "B/lung masks/2.png", "B/infection masks/2.png"
    )
    touch(tmp_path, "B/images/3.png", "B/Lung_Masks/3_mask.tif", "B/masks/9.png")
    said: list[str] = []
    records = {r.name: r for r in read_records(tmp_path, say=said.append)}
    assert {name: r.label for name, r in records.items()} == {
        "A/images/1.png": "A",
        "B/images/2.png": "B",
        "B/images/3.png": "B",
    }
    one, two, three = records.values()
    assert (one.lung_mask, one.lesion_mask) == (tmp_path / "A/masks/1.png", None)
    assert (two.lung_mask, two.lesion_mask) == (tmp_path / "B/lung masks/2.png", tmp_path / "B/infection masks/2.png")
    assert three.lung_mask == tmp_path / "B/Lung_Masks/3_mask.tif"
    assert said == [
        f"{tmp_path}: 4 images are masks of other images, judging by names or folders",
        f"{tmp_path}: 1 entry passed over (a mask without an image 1)",
    ]
    assert len(find_images([str(tmp_path)]).files) == 3
    touch(tmp_path / "single", "A/images/1.png", "A/masks/1.png")
    said.clear()
    read_records(tmp_path / "single", min_classes=1, say=said.append)
    assert said == [f"{tmp_path / 'single'}: 1 image is a mask of another image, judging by names or folders"]


@pytest.mark.parametrize("images", ["images", "img", ""])
@pytest.mark.parametrize(
    ("masks", "kind"),
    [
        ("mask/1.png", "lung_mask"),
        ("LungMasks/1_mask.png", "lung_mask"),
        ("segmentations/1.png", "lung_mask"),
        ("lung_segmentation/1.png", "lung_mask"),
        ("annotations/1.png", "lung_mask"),
        ("ground_truth/1.png", "lung_mask"),
        ("infection-seg/1.png", "lesion_mask"),
        ("heart masks/1.png", ""),
        ("leftMask/1.png", ""),
    ],
)
def test_masks_never_become_images(tmp_path, images, masks, kind):
    touch(
        tmp_path,
        *(str(PurePosixPath(label, part)) for label in "AB" for part in (PurePosixPath(images, "1.png"), masks)),
    )
    records = read_records(tmp_path)
    assert [r.name for r in records] == [str(PurePosixPath(label, images, "1.png")) for label in "AB"]
    for r in records:
        masked = {"lung_mask": r.lung_mask, "lesion_mask": r.lesion_mask}
        assert {name: path for name, path in masked.items() if path} == (
            {kind: tmp_path / r.label / masks} if kind else {}
        )


def test_files_named_as_masks_of_the_image_beside_them(tmp_path):
    touch(
        tmp_path,
        "A/1.png",
        "A/1_mask.png",
        "A/1-infection-mask.png",
        "A/1_mask_2.png",
        "B/2 (1).png",
        "B/2 (1)_mask.png",
    )
    touch(tmp_path, "B/gas_mask.png")
    said: list[str] = []
    one, two, three = read_records(tmp_path, say=said.append)
    assert (one.lung_mask, one.lesion_mask) == (tmp_path / "A/1_mask.png", tmp_path / "A/1-infection-mask.png")
    assert (two.name, two.lung_mask) == ("B/2 (1).png", tmp_path / "B/2 (1)_mask.png")
    assert (three.name, three.lung_mask) == ("B/gas_mask.png", None)
    assert said[1] == f"{tmp_path}: 1 entry passed over (a mask without an image 1)"
    assert len(find_images([str(tmp_path)]).files) == 3


def test_images_and_masks_may_be_the_upper_folders(tmp_path):
    touch(tmp_path, "images/A/1.png", "images/B/1.png", "masks/A/1.png", "masks/B/1.png")
    records = read_records(tmp_path)
    assert [(r.label, r.lung_mask) for r in records] == [(c, tmp_path / "masks" / c / "1.png") for c in "AB"]


@pytest.mark.parametrize("train", ["train", "Training", "TRN", "train_set"])
@pytest.mark.parametrize(
    ("val", "test"),
    [
        ("val", "test"),
        ("Validation", "Testing"),
        ("valid", "tst"),
        ("DEV", "TEST"),
        ("val-images", "test_dataset"),
        ("02_val", "03_holdout"),
        ("chest_xray_val", "chestXrayTest"),
        ("imagesVal", "imagesTs"),
    ],
)
def test_split_folders_in_any_usual_spelling_are_splits(tmp_path, train, val, test):
    for part in (train, val, test):
        touch(tmp_path, f"{part}/A/1.png", f"{part}/B/2.png")
    said: list[str] = []
    records = read_records(tmp_path, say=said.append)
    assert {r.name.split("/")[0]: r.split for r in records} == {train: "train", val: "val", test: "test"}
    assert {r.label for r in records} == {"A", "B"}
    assert said == ["the folders' names give the splits: test 2, train 2, val 2"]


def test_splits_may_lie_inside_the_classes(tmp_path):
    touch(tmp_path, "A/train/1.png", "A/test/2.png", "B/train/3.png")
    assert [(r.label, r.split) for r in read_records(tmp_path)] == [("A", "test"), ("A", "train"), ("B", "train")]


def test_one_patient_in_two_split_folders_is_refused(tmp_path):
    for i, name in enumerate(("train/A/1.dcm", "train/B/2.dcm", "test/A/3.dcm")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, PatientID=str(i % 2 + 1))
    _, problems = scan_records(tmp_path)
    (problem,) = problems
    assert problem.startswith("train/A/1.dcm: patient p")
    assert problem.endswith("in two splits: train here, test in test/A/3.dcm")


def clutter(root) -> None:
    """What systems leave behind, with pictures inside."""
    junk = ("__MACOSX/A/1.png", "A/@eaDir/2.png", "lost+found/3.png", "A/Thumbnails/4.png", "A/.hid/5.png", "A/._6.png")
    touch(root, *junk)
    (root / "A" / "Thumbs.db").write_bytes(b"x")
    (root / ".DS_Store").write_bytes(b"x")
    (root / "A" / "notes.txt").write_text("x")


def test_every_command_walks_alike_and_counts_what_it_passes_over(tmp_path):
    touch(tmp_path, "A/x.png", "B/deep/er/y.png")
    clutter(tmp_path)
    write(tmp_path / "B" / "z.IMA")
    said: list[str] = []
    names = ["A/x.png", "B/deep/er/y.png", "B/z.IMA"]
    assert [r.name for r in read_records(tmp_path, say=said.append)] == names
    assert [r.name for r in read_records(tmp_path, labelled=False)] == names
    found = find_images([str(tmp_path)])
    assert sorted(str(file.relative_to(tmp_path)) for file in found.files) == names
    assert (
        found.notes
        == said
        == [f"{tmp_path}: 9 entries passed over (hidden 3, a file of the operating system 5, not an image 1)"]
    )
    assert not found.problems


@posix
def test_symbolic_links(tmp_path):
    data, far = tmp_path / "data", tmp_path / "far"
    touch(tmp_path, "data/A/x.png", "far/y.png", "far/deep/z.png", "elsewhere/w.png")
    (data / "B").symlink_to(far, target_is_directory=True)  # a class that is a link
    (data / "A" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (data / "A" / "one.png").symlink_to(far / "y.png")
    (data / "A" / "up").symlink_to("..", target_is_directory=True)
    (data / "A" / "above").symlink_to(tmp_path, target_is_directory=True)
    (far / "back").symlink_to(far, target_is_directory=True)
    (far / "self.png").symlink_to("self.png")
    (far / "gone.png").symlink_to("nowhere")
    said: list[str] = []
    records = read_records(data, say=said.append)
    expected = [("A/more/w.png", "A"), ("A/one.png", "A"), ("A/x.png", "A"), ("B/deep/z.png", "B"), ("B/y.png", "B")]
    assert [(r.name, r.label) for r in records] == expected
    assert walk(data).passed_over == {"a link to a parent folder or to a folder already read": 3, "a broken link": 2}
    assert said[0].startswith(f"{data}: 5 entries passed over (")


@posix
def test_what_is_no_file_is_counted_and_never_opened(tmp_path):
    touch(tmp_path, "A/x.png")
    os.mkfifo(tmp_path / "A" / "fifo.png")
    os.mkfifo(tmp_path / "A" / "IM0001")
    (tmp_path / "A" / "zero.png").symlink_to("/dev/zero")
    found = walk(tmp_path)
    assert (found.images, dict(found.passed_over)) == (["A/x.png"], {"a FIFO, socket or device": 3})


def test_a_class_folder_that_is_no_class(tmp_path):
    touch(tmp_path, "A/1.png", "None/2.png", "B|C/3.png")
    _, problems = scan_records(tmp_path, min_classes=1)
    assert [problem.split(": ")[1] for problem in problems] == [
        "label 'B|C' names several classes",
        "label 'None' is not a class",
    ]


def test_a_folder_without_an_image_is_a_problem_and_the_others_are_found(tmp_path):
    touch(tmp_path, "full/1.png")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.txt").write_text("x")
    found = find_images([str(tmp_path / "none"), str(tmp_path / "full")])
    assert [file.name for file in found.files] == ["1.png"]
    assert found.notes == [f"{tmp_path / 'none'}: 1 entry passed over (not an image 1)"]
    assert found.problems == [f"{tmp_path / 'none'}: no image found in this folder"]


def test_a_class_folder_in_mac_os_spelling(tmp_path):
    touch(tmp_path, "Ne\u0301ant/1.png", "B/2.png")
    assert [r.label for r in read_records(tmp_path)] == ["B", "N\u00e9ant"]
    assert Image.open(read_records(tmp_path)[1].path).size == (2, 2)

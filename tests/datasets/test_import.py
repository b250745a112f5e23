"""Public data sets: a miniature of each becomes a manifest that the library reads; every wrong folder is named."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

from cvrnet.data import read_records, scan_records
from cvrnet.data.overview import look_over
from cvrnet.datasets import ALIASES, PUBLIC_SETS, import_data_set
from cvrnet.errors import UserError
from cvrnet_cli.import_ import NAMES
from tests.support.public_sets import MINIATURES, generic, image


def rows_of(manifest):
    with open(manifest, newline="") as file:
        return list(csv.DictReader(file))


def imported(name, tmp_path, **arguments):
    """The miniature of a data set, its import, and the rows of the manifest beside the folder."""
    MINIATURES[name](tmp_path / "set")
    result = import_data_set(name, tmp_path / "set", tmp_path / "manifest.csv", **arguments)
    return result, rows_of(tmp_path / "manifest.csv")


SINGLE = {"rsna", "covidx", "covid-radiography", "kermany", "cohen"}
EXPECTED = {
    "nih": {"images": 4, "patients": 3, "split train": 3, "split test": 1, "images with boxes": 1, "boxes": 2},
    "chexpert": {"images": 6, "patients": 3, "split train": 4, "split val": 2, "label Cardiomegaly": 6},
    "mimic-cxr-jpg": {"images": 3, "patients": 2, "split train": 2, "split val": 1, "label No Finding": 3},
    "padchest": {"images": 2, "patients": 1, "label No Finding": 1, "label kyphosis": 1},
    "rsna": {"images": 3, "patients": 3, "images with boxes": 1, "boxes": 2, "label Lung Opacity": 1},
    "vindr": {"images": 4, "split train": 2, "split test": 2, "boxes": 4, "label No finding": 2},
    "covidx": {"images": 4, "patients": 4, "split train": 3, "split test": 1, "label COVID-19": 2},
    "covid-radiography": {"images": 8, "label COVID": 2, "label Viral Pneumonia": 2},
    "kermany": {"images": 8, "patients": 7, "split train": 3, "split val": 2, "split test": 3, "label NORMAL": 3},
    "cohen": {"images": 3, "patients": 2, "label Pneumonia": 2, "label No Finding": 1},
}


@pytest.mark.parametrize("name", MINIATURES)
def test_the_manifest_of_every_miniature_is_read(name, tmp_path):
    result, rows = imported(name, tmp_path)
    assert EXPECTED[name].items() <= result.counts.items()
    assert all(key in result.counts for key in result.published if key.partition(" ")[0] in ("images", "split"))
    records, problems = scan_records(tmp_path / "manifest.csv", labelled=name in SINGLE)
    assert problems == []
    assert len(records) == len(rows) == result.counts["images"]
    assert all(row["path"].startswith("set/") for row in rows)
    found = look_over(tmp_path / "manifest.csv")
    assert found.problems == []
    assert sum(row["images"] for row in found.rows if row["what"] == "size") == len(rows)
    labels = {f"label {row['value']}": row["images"] for row in found.rows if row["what"] == "label"}
    assert {key: number for key, number in result.counts.items() if key.startswith("label ")}.items() <= labels.items()


def test_nih_has_its_labels_lists_ages_and_boxes(tmp_path):
    _, rows = imported("nih", tmp_path)
    assert [row["label"] for row in rows][1:3] == ["Cardiomegaly|Emphysema", "No Finding"]
    assert [row["age"] for row in rows] == ["58", "58", "", "81"]  # 411 years are none
    assert rows[3]["lesion_boxes"] == "2.5,3.2,8,7.1;1,1,4,4"
    assert read_records(tmp_path / "manifest.csv", labelled=False)[3].lesion_boxes[1] == (1, 1, 4, 4)
    assert (rows[0]["path"], rows[3]["path"]) == (
        "set/images_001/images/00000001_000.png",
        "set/images_002/images/00000003_000.png",
    )


def test_findings_are_1_0_uncertain_or_blank(tmp_path):
    _, rows = imported("chexpert", tmp_path)
    assert [rows[0][name] for name in ("Cardiomegaly", "Edema", "Consolidation")] == ["1", "-1", "0"]
    assert {row["view"] for row in rows} == {"AP", "Lateral"}
    assert [(row["sex"], row["age"]) for row in rows[1:3]] == [("F", "68"), ("", "")]
    assert rows[4]["patient_id"] == "patient64541"


def test_days_count_from_a_patients_first_image(tmp_path):
    result, rows = imported("mimic-cxr-jpg", tmp_path)
    assert [row["day"] for row in rows] == ["0", "51", "0"]
    assert result.left_out == {"the study has no row in mimic-cxr-2.0.0-chexpert.csv": 1}


def test_padchests_lists_are_read_as_data(tmp_path):
    result, rows = imported("padchest", tmp_path)
    assert [(row["label"], row["age"], row["day"]) for row in rows] == [
        ("pulmonary fibrosis|kyphosis", "84", "0"),
        ("No Finding", "84", "5"),
    ]
    assert result.left_out == {"marked exclude": 1, "no labels": 1}


def test_rsna_reads_the_tags_and_leaves_out_test_images(tmp_path):
    result, rows = imported("rsna", tmp_path)
    assert [(row["label"], row["sex"], row["age"], row["view"]) for row in rows] == [
        (label, "F", "58", "PA") for label in ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")
    ]
    assert rows[2]["lesion_boxes"] == "2,3,5,6;12,3,5,6"
    assert result.left_out == {"in stage_2_test_images, which has no labels": 1}


def test_vindrs_readers_are_joined(tmp_path):
    _, rows = imported("vindr", tmp_path)
    columns = ("Aortic enlargement", "Cardiomegaly", "Other diseases", "No finding")
    assert [[row[name] for name in columns] for row in rows] == [
        ["1", "-1", "1", "0"],  # one reader of three saw the heart
        ["0", "0", "0", "1"],
        ["1", "1", "1", "0"],
        ["0", "0", "0", "1"],
    ]
    assert rows[2]["lesion_boxes"] == "2,4,8,8"


def test_a_finding_that_vindrs_table_lacks_is_not_known(tmp_path):
    MINIATURES["vindr"](tmp_path / "set")
    table = tmp_path / "set" / "annotations" / "image_labels_train.csv"
    table.write_text(table.read_text().replace("Tuberculosis", "TB"))
    result = import_data_set("vindr", tmp_path / "set", tmp_path / "m.csv")
    assert [row["Tuberculosis"] for row in rows_of(tmp_path / "m.csv")] == ["", "", "0", "0"]
    assert "image_labels_train.csv has no values for Tuberculosis: the manifest's cells stay empty" in result.notes


def test_kermanys_patients_come_from_the_names(tmp_path):
    result, rows = imported("kermany", tmp_path)
    assert {row["patient_id"] for row in rows if row["split"] == "test"} == {
        *("test-IM-0001", "test-person1", "test-BACTERIA-1135262"),
    }
    assert result.left_out == {"a second copy in a deeper folder": 8}
    assert not result.notes


def test_covid_radiography_has_masks_and_cohen_no_ct(tmp_path):
    _, rows = imported("covid-radiography", tmp_path)
    assert rows[0]["lung_mask"] == rows[0]["path"].replace("images", "masks")
    MINIATURES["cohen"](tmp_path / "cohen")
    result = import_data_set("cohen", tmp_path / "cohen", tmp_path / "cohen.csv")
    assert result.left_out == {"CT, not a radiograph": 1, "the finding is todo": 1}
    rows = rows_of(tmp_path / "cohen.csv")
    assert [(row["day"], row["went_icu"], row["in_icu"]) for row in rows[:2]] == [("0", "Y", "N"), ("3", "Y", "Y")]
    assert {(row["label"], row["finding"]) for row in rows} == {
        ("No Finding", "No Finding"),
        ("Pneumonia", "Pneumonia/Viral/COVID-19"),  # one patient only
    }


def test_rare_findings_of_cohen_are_joined_to_those_above(tmp_path):
    MINIATURES["cohen"](tmp_path / "set", 24)
    result = import_data_set("cohen", tmp_path / "set", tmp_path / "m.csv")
    assert result.counts | {"label COVID-19": 9, "label Pneumonia": 9, "label No Finding": 9} == result.counts
    assert {row["label"] for row in rows_of(tmp_path / "m.csv") if "MERS" in row["finding"]} == {"Pneumonia"}


def test_generic_guesses_the_columns_or_takes_them(tmp_path):
    generic(tmp_path / "set")
    with pytest.raises(UserError, match=r"labels.csv names 1 file that is not there: b/c; --partial imports"):
        import_data_set("generic", tmp_path / "set", tmp_path / "m.csv")
    result = import_data_set("generic", tmp_path / "set", tmp_path / "m.csv", partial=True)
    assert "column 'Image Index' is used as path" in result.notes
    assert [(row["path"], row["label"], row["patient_id"]) for row in rows_of(tmp_path / "m.csv")] == [
        ("set/x/a.png", "CVP", "1"),
        ("set/x/b.png", "NOR", "2"),
    ]
    with pytest.raises(UserError, match="--columns label='finding': no such column"):
        import_data_set("generic", tmp_path / "set", tmp_path / "n.csv", columns={"label": "finding"})


def test_generic_reads_class_folders(tmp_path):
    for name in ("train/NOR/a.png", "train/CVP/b.png", "test/NOR/c.png"):
        image(tmp_path / "set" / name)
    result = import_data_set("generic", tmp_path / "set", tmp_path / "set" / "manifest.csv")
    assert result.counts == {"images": 3, "split train": 2, "split test": 1, "label NOR": 2, "label CVP": 1}
    assert read_records(tmp_path / "set")[0].path.is_file()


def test_a_manifest_elsewhere_needs_the_folder(tmp_path):
    MINIATURES["cohen"](tmp_path / "set")
    result = import_data_set("cohen", tmp_path / "set", tmp_path / "elsewhere" / "manifest.csv")
    assert result.images == tmp_path / "set"
    assert len(read_records(tmp_path / "elsewhere" / "manifest.csv", images=result.images)) == 3


# Bad input


@pytest.mark.parametrize("name", [name for name in PUBLIC_SETS if name != "generic"])
def test_a_wrong_folder_is_named_with_what_was_expected(name, tmp_path):
    (tmp_path / "set").mkdir()
    expected = PUBLIC_SETS[name].expects
    with pytest.raises(UserError) as error:
        import_data_set(name, tmp_path / "set", tmp_path / "m.csv")
    assert f"this does not look like {name}: expected {expected}" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "m.csv").exists()


def test_a_table_without_its_columns_is_another_data_set(tmp_path):
    (tmp_path / "train.csv").write_text("image,label\na.png,1\n")
    message = (
        "this does not look like chexpert: expected train.csv with the columns Path, Sex, Age,.*has no column Path, Sex"
    )
    with pytest.raises(UserError, match=message):
        import_data_set("chexpert", tmp_path, tmp_path / "m.csv")


def test_a_column_that_is_named_twice_is_refused(tmp_path):
    generic(tmp_path / "set")
    table = tmp_path / "set" / "labels.csv"
    table.write_text(table.read_text().replace("diagnosis", "sex"))
    with pytest.raises(UserError, match=r"labels\.csv: a column is named twice: 'sex'"):
        import_data_set("generic", tmp_path / "set", tmp_path / "m.csv", partial=True)


@pytest.mark.parametrize(
    ("name", "file", "cell"),
    [
        ("nih", "BBox_List_2017.csv", "2.5"),
        ("rsna", "stage_2_train_labels.csv", "12.0"),
        ("vindr", "annotations/annotations_test.csv", "10"),
    ],
)
def test_a_box_that_is_no_number_is_named(name, file, cell, tmp_path):
    MINIATURES[name](tmp_path / "set")
    table = tmp_path / "set" / file
    table.write_text(table.read_text().replace(cell, "far", 1))
    with pytest.raises(UserError, match=rf"{Path(file).name}: .* are '.*far.*'; expected numbers"):
        import_data_set(name, tmp_path / "set", tmp_path / "m.csv")


def test_a_row_that_ends_early_has_empty_cells(tmp_path):
    MINIATURES["nih"](tmp_path / "set")
    table = tmp_path / "set" / "Data_Entry_2017.csv"
    table.write_text(re.sub("Infiltration,0,3,.*", "Infiltration,0,3", table.read_text()))
    import_data_set("nih", tmp_path / "set", tmp_path / "m.csv")
    assert [rows_of(tmp_path / "m.csv")[3][name] for name in ("label", "view", "age")] == ["Infiltration", "", ""]


def test_a_list_that_names_missing_files_gives_their_number_and_five(tmp_path):
    MINIATURES["nih"](tmp_path / "set")
    names = [f"0000001{number}_000.png" for number in range(7)]
    with open(tmp_path / "set" / "test_list.txt", "a") as file:
        file.write("\n".join(names))
    message = f"the list of test names 7 files that are not there: {', '.join(names[:5])}, …; --partial"
    with pytest.raises(UserError, match=message):
        import_data_set("nih", tmp_path / "set", tmp_path / "m.csv")
    result = import_data_set("nih", tmp_path / "set", tmp_path / "m.csv", partial=True)
    assert any(note.startswith("the list of test names 7 files") for note in result.notes)
    assert result.counts["images"] == 4


def test_an_image_in_both_lists_is_an_error(tmp_path):
    MINIATURES["nih"](tmp_path / "set")
    with open(tmp_path / "set" / "test_list.txt", "a") as file:
        file.write("00000001_000.png\n")
    with pytest.raises(UserError, match=r"00000001_000\.png is in the list of train too"):
        import_data_set("nih", tmp_path / "set", tmp_path / "m.csv")


def test_patients_on_both_sides_are_told(tmp_path):
    MINIATURES["nih"](tmp_path / "set")
    (tmp_path / "set" / "train_val_list.txt").write_text("00000001_000.png\n")
    (tmp_path / "set" / "test_list.txt").write_text("00000001_001.png\n")
    result = import_data_set("nih", tmp_path / "set", tmp_path / "m.csv")
    assert "patients in two splits, which training refuses: 1 (1)" in result.notes


def test_a_table_cannot_name_a_file_outside(tmp_path):
    MINIATURES["chexpert"](tmp_path / "set")
    image(tmp_path / "secret.jpg")
    table = tmp_path / "set" / "train.csv"
    first = "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    table.write_text(table.read_text().replace(first, "x/../secret.jpg"))
    with pytest.raises(UserError, match=r"names 1 file that is not there: \.\./secret.jpg"):
        import_data_set("chexpert", tmp_path / "set", tmp_path / "m.csv")


def test_the_data_sets_own_tables_are_never_overwritten(tmp_path):
    MINIATURES["chexpert"](tmp_path / "set")
    own = tmp_path / "set" / "train.csv"
    before = own.read_bytes()
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"exists; --overwrite|cvrnet did not write it"):
            import_data_set("chexpert", tmp_path / "set", own, overwrite=overwrite)
    assert own.read_bytes() == before
    for _ in range(2):
        import_data_set("chexpert", tmp_path / "set", tmp_path / "m.csv", overwrite=True)


# Command line


def test_the_command_knows_every_data_set():
    assert set(NAMES) == {*PUBLIC_SETS, *ALIASES}


def test_the_command_shows_counts_beside_published_ones(tmp_path, cli):
    MINIATURES["nih"](tmp_path / "set")
    status, out, err = cli("import", "nih", tmp_path / "set", "-o", tmp_path / "m" / "m.csv", "--format", "json")
    assert status == 0
    counts = {row["what"]: (row["found"], row["published"]) for row in json.loads(out)}
    assert counts["images"] == (4, 112_120)
    assert counts["label Hernia"] == (0, 227)
    assert f"cvrnet data {tmp_path / 'm' / 'm.csv'} --images {tmp_path / 'set'}" in err
    status, _, err = cli("import", "mimic", tmp_path / "set", "-o", tmp_path / "x.csv")
    assert status == 2
    assert "'mimic' is not one of 'nih'" in err
    status, _, err = cli("import", "cohen", tmp_path / "set", "-o", tmp_path / "x.csv")
    assert status == 1
    assert "this does not look like cohen: expected metadata.csv with the columns patientid, offset" in err


PAGE = (Path(__file__).resolve().parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MINIATURES)
def test_the_two_commands_of_the_page_reach_a_report(name, tmp_path, cli, monkeypatch):
    """The page's own commands, with a small network; ``cvrnet_lite`` and its weights take too long for a test."""
    commands = re.search(rf"^cvrnet (import {name} .*)\ncvrnet (crossval .*)$", PAGE, re.MULTILINE)
    load, learn = (shlex.split(command) for command in commands.groups())
    MINIATURES[name](tmp_path / load[2], 24)
    monkeypatch.chdir(tmp_path)
    status, _, err = cli(*load)
    assert status == 0, err
    options = ["--model", "cvrnet", "--encoders", "test_resnet", "--no-pretrained", "--img-size", 32, "--epochs", 1]
    status, out, err = cli(*learn, *options, "--folds", 3, "--no-audit", "--no-maps")
    assert status == 0, err
    assert (tmp_path / learn[-1] / "report.html").is_file()
    assert ("finding" in out.splitlines()[0]) == (name not in SINGLE) == ("--findings" in learn)

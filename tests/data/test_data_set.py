"""Manifests that stand anywhere (``images``), call their columns by other names (``columns``), and have boxes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cvrnet.data import DataError, DataSet, Record, read_records, scan_records, write_manifest
from cvrnet.data.boxes import box_mask
from cvrnet.data.overview import look_over
from cvrnet_cli.manifest_options import column_names

NIH = {"path": "Image Index", "label": "Finding Labels", "patient_id": "Patient ID"}


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 3), 100).save(path)
    return path


@pytest.fixture
def apart(tmp_path):
    """A table in one folder, its images in another."""
    for name in ("a/1.png", "2.png"):
        touch(tmp_path / "images" / name)
    table = tmp_path / "tables" / "entries.csv"
    table.parent.mkdir()
    absolute = tmp_path / "images" / "2.png"
    table.write_text(f"Image Index,Finding Labels,Patient ID,Age\na/1.png,NOR,7,50\n{absolute},CVP,8,60\n")
    return table


def test_a_table_is_read_from_elsewhere_by_its_own_names(apart, tmp_path):
    records = read_records(apart, images=tmp_path / "images", columns=NIH)
    assert [(r.name, r.label, r.patient_id, r.metadata) for r in records] == [
        ("a/1.png", "NOR", "7", {"Age": "50"}),
        ("2.png", "CVP", "8", {"Age": "60"}),  # absolute, below the folder
    ]
    assert all(r.path.is_file() for r in records)
    assert records == read_records(DataSet(apart, tmp_path / "images", NIH))


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "{outside}"])
def test_no_path_leaves_the_folder_of_the_images(apart, tmp_path, name):
    outside = touch(tmp_path / "secret.png")
    apart.write_text(f"path,label,lung_mask\n2.png,NOR,\n{name.format(outside=outside)},CVP,\n2.png,A,../secret.png\n")
    _, problems = scan_records(apart, images=tmp_path / "images")
    assert "path outside the data folder" in problems[0]
    assert "lung_mask outside the data folder" in problems[1]


def test_links_are_followed_as_in_a_folder(apart, tmp_path):
    touch(tmp_path / "other" / "3.png")
    (tmp_path / "images" / "link").symlink_to(tmp_path / "other")
    apart.write_text("path,label\nlink/3.png,NOR\n2.png,CVP\n")
    assert read_records(apart, images=tmp_path / "images")[0].name == "link/3.png"


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"path": "Image"}, "--columns path='Image': no such column (found: 'Image Index', 'Finding Labels'"),
        (
            {**NIH, "source": "Image Index"},
            "--columns: 'Image Index' is given twice; a column can have only one meaning",
        ),
        ({**NIH, "view": "Twice"}, "--columns view='Twice': 2 columns have this name"),
        ({**NIH, "Age": "Finding Labels"}, "another column is called Age; rename it too"),
    ],
)
def test_a_wrong_mapping_is_named(apart, tmp_path, columns, problem):
    header = "Image Index,Finding Labels,Patient ID,Age,Twice,Twice" if "view" in columns else None
    if header:
        apart.write_text(f"{header}\na/1.png,NOR,7,50,,\n")
    with pytest.raises(DataError) as error:
        read_records(apart, images=tmp_path / "images", columns=columns)
    assert problem in str(error.value)
    assert len(error.value.problems) == 1


def test_two_columns_of_one_name_and_two_swapped_ones(apart, tmp_path):
    apart.write_text("path,label,label\n2.png,NOR,CVP\n")
    with pytest.raises(DataError, match="a column is named twice: 'path, label, label'"):
        read_records(apart, images=tmp_path / "images")
    apart.write_text("path,label,class\n2.png,0,NOR\na/1.png,1,CVP\n")
    records = read_records(apart, images=tmp_path / "images", columns={"label": "class", "number": "label"})
    assert [(r.label, r.metadata["number"]) for r in records] == [("NOR", "0"), ("CVP", "1")]


def test_they_are_for_manifests_and_the_folder_must_exist(apart, tmp_path):
    with pytest.raises(DataError, match="not a CSV manifest; --images and --columns are for manifests"):
        read_records(tmp_path / "images", images=tmp_path)
    _, problems = scan_records(apart, images=tmp_path / "nowhere", columns=NIH)
    assert "nowhere: no such folder" in problems[0]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_the_delimiter_is_found_by_the_mapped_path(apart, tmp_path, delimiter):
    apart.write_text(delimiter.join(["Image Index", "a,b,c"]) + "\n" + delimiter.join(["2.png", "NOR"]) + "\n")
    columns = {"path": "Image Index", "label": "a,b,c"}
    assert read_records(apart, images=tmp_path / "images", columns=columns, min_classes=1)[0].label == "NOR"


def test_the_option_reads_quoted_names():
    assert column_names('path="Image Index",label=Finding Labels') == {
        "path": "Image Index",
        "label": "Finding Labels",
    }
    assert column_names('path="a, b", x=Follow-up #') == {"path": "a, b", "x": "Follow-up #"}
    for wrong in ("path", "path=", "=x", "path=a,path=b", 'path="a'):
        with pytest.raises(Exception, match=r"expected NAME=COLUMN|given twice|quotation"):
            column_names(wrong)


# Boxes


def test_boxes_are_read_written_and_drawn(tmp_path):
    touch(tmp_path / "a.png")
    (tmp_path / "m.csv").write_text('path,label,lesion_boxes\na.png,NOR,"1,0,2,2;0,2.5,1,9"\n')
    (record,) = read_records(tmp_path / "m.csv", min_classes=1)
    assert record.lesion_boxes == ((1, 0, 2, 2), (0, 2.5, 1, 9))
    write_manifest(tmp_path / "n.csv", [record])
    assert read_records(tmp_path / "n.csv", min_classes=1)[0].lesion_boxes == record.lesion_boxes
    assert box_mask(record.lesion_boxes, 3, 4).astype(int).tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 0]]
    assert not box_mask([(9, 9, 1, 1), (-5, -5, 2, 2)], 3, 4).any()
    (tmp_path / "m.csv").write_text('path,label,lesion_boxes\na.png,NOR,"1,0,2"\n')
    with pytest.raises(DataError, match=r"lesion_boxes '1,0,2': expected left,top,width,height"):
        read_records(tmp_path / "m.csv", min_classes=1)


def test_maps_are_measured_against_boxes(tmp_path):
    from cvrnet.explain.measure_data import _read_masks

    path = touch(tmp_path / "a.png")
    problems: list[str] = []
    masks = _read_masks(Record(path, "a.png", lesion_boxes=((1, 0, 2, 2),)), problems)
    assert np.array_equal(masks["lesion"], box_mask([(1, 0, 2, 2)], 3, 4))
    assert _read_masks(Record(path, "a.png", lesion_boxes=((50, 50, 2, 2),)), problems) == {}
    assert problems == ["a.png: lesion_boxes lie outside the image"]


# At a glance


def test_the_overview_counts_and_names_problems(apart, tmp_path, cli):
    (tmp_path / "images" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    with open(apart, "a") as file:
        file.write("gone.png,CVP,9,1\n")
    options = ["--images", tmp_path / "images", "--columns", ",".join(f"{k}={v}" for k, v in NIH.items())]
    sheet = tmp_path / "sheet.png"
    status, out, err = cli("data", apart, *options, "-o", sheet, "--format", "json")
    assert status == 1
    rows = {(row["what"], row["value"]): (row["images"], row["patients"]) for row in json.loads(out)}
    assert rows["images", "all"] == rows["patient", "1 image"] == (2, 2)
    assert rows["label", "NOR"] == rows["size", "4 x 3"] == rows["depth", "8-bit grey"] == (1, 1)
    assert "2 problems:" in err
    assert "gone.png: file not found" in err
    assert "2.png: damaged" in err or "2.png: not" in err
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"
    status, _, err = cli("data", apart, *options, "-o", sheet)
    assert (status, "exists; --overwrite replaces it" in err) == (1, True)


def test_the_overview_knows_findings_in_columns_and_in_labels(tmp_path):
    touch(tmp_path / "a.png")
    touch(tmp_path / "b.png")
    (tmp_path / "m.csv").write_text("path,Edema,Mass,age\na.png,1.0,-1.0,1\nb.png,1,0,0\n")
    assert look_over(tmp_path / "m.csv").labels == [("Edema",), ("Edema",)]
    (tmp_path / "m.csv").write_text("path,label\na.png,Edema|Mass\nb.png,No Finding\n")
    found = look_over(tmp_path / "m.csv")
    assert found.labels == [("Edema", "Mass"), ("No Finding",)]
    assert found.problems == []

"""Records: folders and manifests as people have them, and every mistake named by file and row."""

import os
import pickle
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cvrnet.data import DataError, Record, class_names, read_records, scan_records, write_manifest
from cvrnet.data.cells import clean
from cvrnet.data.patients import patient_ids
from cvrnet.errors import UserError
from tests.support.privileges import permissions_hold


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(root / name, format="PNG")


def manifest(root: Path, text: str, encoding: str = "utf-8") -> Path:
    (root / "manifest.csv").write_bytes(text.encode(encoding))
    return root / "manifest.csv"


def problems_of(data, **arguments) -> list[str]:
    """The problems, which `read_records` must tell as well."""
    records, problems = scan_records(data, **arguments)
    if problems:
        with pytest.raises(DataError) as error:
            read_records(data, **arguments)
        assert error.value.problems == problems
        assert isinstance(error.value, UserError)
    else:
        assert records == read_records(data, **arguments)
    assert all("\n" not in problem for problem in problems)
    return problems


def test_a_folder_has_one_sub_folder_a_class(tmp_path):
    touch(tmp_path, "NOR/b.PNG", "NOR/a.jpeg", "CVP/x/é 1.tif", "NOR/.hidden.png", ".cache/c.png", "NOR/.d/e.png")
    (tmp_path / "NOR" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "README.md").write_text("x")
    records = read_records(tmp_path)
    assert [(record.name, record.label) for record in records] == [
        ("CVP/x/é 1.tif", "CVP"),
        ("NOR/a.jpeg", "NOR"),
        ("NOR/b.PNG", "NOR"),
    ]
    assert all(record.path == tmp_path / record.name and record.path.is_absolute() for record in records)
    assert {(record.source, record.patient_id, record.split, record.where) for record in records} == {("", "", "", "")}


def test_a_folder_without_labels_may_hold_its_images_anywhere(tmp_path):
    touch(tmp_path, "b.png", "deep/er/a.png")
    (tmp_path / "empty").mkdir()
    records = read_records(tmp_path, labelled=False)
    assert [(record.name, record.label) for record in records] == [("b.png", ""), ("deep/er/a.png", "")]


def test_relative_paths_are_made_absolute(tmp_path, monkeypatch):
    touch(tmp_path, "A/1.png", "B/2.png")
    monkeypatch.chdir(tmp_path.parent)
    assert [record.path for record in read_records(tmp_path.name)] == [tmp_path / "A/1.png", tmp_path / "B/2.png"]


@pytest.mark.parametrize(
    ("names", "folders", "expected"),
    [
        (["A/1.png", "B/2.png"], ["C"], ["C: empty class folder (no .png"]),
        (["A/1.png"], [], ["only 1 class (A): at least 2 are needed"]),
        (["A/1.png"], ["B"], ["B: empty class folder (no .png", "only 1 class (A): at least 2 are needed"]),
        (["A/1.png", "B/2.png", "3.png", "4.png"], [], ["images outside the class folders: 3.png and 1 more"]),
        (["train/A/1.png", "test/A/2.png"], [], ["only 1 class (A): at least 2 are needed"]),
        (
            ["train/A/1.png", "Test/B/2.png", "C/3.png"],
            [],
            ["C is beside the split folders Test, train: expected all classes inside these folders"],
        ),
        (["train/A/1.png", "test/B/2.png", "val/3.png"], [], ["images outside the class folders: val/3.png"]),
        (
            ["A/1.png", "COVID/2.png", "covid/3.png"],
            [],
            ["labels that differ only in case or blanks: 'COVID' (images: 1, first"],
        ),
        ([], [], ["no images"]),
    ],
)
def test_what_is_wrong_with_a_folder(tmp_path, names, folders, expected):
    touch(tmp_path, *names)
    for folder in folders:
        (tmp_path / folder).mkdir()
    problems = problems_of(tmp_path)
    assert len(problems) == len(expected)
    assert all(found.startswith(f"{tmp_path}: {text}") for found, text in zip(problems, expected, strict=True))


def test_a_missing_data_set(tmp_path):
    assert problems_of(tmp_path / "none") == [f"{tmp_path / 'none'}: no such folder or CSV manifest"]


def test_a_single_class_is_fine_where_one_says_so(tmp_path):
    touch(tmp_path, "A/1.png")
    assert problems_of(tmp_path, min_classes=1) == []


def test_a_folder_that_may_not_be_read(tmp_path):
    touch(tmp_path, "A/1.png", "B/2.png")
    (tmp_path / "B").chmod(0)
    try:
        with permissions_hold():
            assert problems_of(tmp_path) == [f"{tmp_path}: {tmp_path / 'B'}: Permission denied"]
    finally:
        (tmp_path / "B").chmod(0o700)


@pytest.mark.skipif(os.name != "posix", reason="file names are text elsewhere")
def test_a_file_name_that_is_no_text(tmp_path):
    touch(tmp_path, "A/1.png", "B/2.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/B/\xff.png")).write_bytes(b"x")
    assert problems_of(tmp_path) == ["B/\\udcff.png: the file name is not Unicode text"]


def test_a_manifest_with_everything(tmp_path):
    touch(tmp_path, "images/a.png", "images/b.png", "m/lung.png", "m/lesion.png")
    file = manifest(
        tmp_path,
        "path,label,finding,source,patient_id,view,split,lung_mask,lesion_mask\r\n"
        'images/a.png,NOR,"none, really",nih,p1,PA,Train,m/lung.png,\r\n'
        ",,,,,,,,\r\n"
        "\r\n"
        "./images/../images/b.png, CVP ,x,cidc,p2,,valid,,m/lesion.png\r\n",
        encoding="utf-8-sig",
    )
    expected = [
        Record(
            tmp_path / "images/a.png",
            "images/a.png",
            "NOR",
            "nih",
            "p1",
            "train",
            "PA",
            lung_mask=tmp_path / "m/lung.png",
            metadata={"finding": "none, really"},
            where="manifest.csv:2",
        ),
        Record(
            tmp_path / "images/b.png",
            "images/b.png",
            "CVP",
            "cidc",
            "p2",
            "val",
            lesion_mask=tmp_path / "m/lesion.png",
            metadata={"finding": "x"},
            where="manifest.csv:5",
        ),
    ]
    assert read_records(file) == expected
    assert read_records(tmp_path) == expected


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("a.png,NOR,,,\nno.png,NOR,,,\nb.png,CVP,,,\n", ["3: no.png: file not found"]),
        ("a.png,NOR,,,\n./a.png,CVP,,,\n", ["3: a.png: duplicate path (also in line 2)"]),
        ("a.png,NOR,,,\nb.png,,,,\nc.png,CVP,,,\n", ["3: b.png: empty label"]),
        ("a.png,NOR,,,\n../b.png,CVP,,,\n",
         ["3: ../b.png: path outside the data folder (--images chooses this folder)"]),
        ("a.png,NOR,,,\n/etc/hosts,CVP,,,\n",
         ["3: /etc/hosts: path outside the data folder (--images chooses this folder)"]),
        ("a.png,NOR,,,\n,CVP,,,\n,CVP,,,\n", ["3: empty path", "4: empty path"]),
        ("a.png,NOR,p,train,\nb.png,NOR,q,test,\nc.png,CVP,p,test,\n",
         ["4: c.png: patient p in two splits: test here, train in line 2"]),
        ("a.png,NOR,p,train,\nb.png,NOR,p,trainer,\nc.png,CVP,p,,\n",
         ["3: b.png: unknown split 'trainer': expected train, val or test"]),
        ("a.png,NOR,,,m.png\nb.png,CVP,,,../m.png\n",
         ["2: a.png: lung_mask not found: m.png", "3: b.png: lung_mask outside the data folder: ../m.png"]),
        ("a.png,NOR,,,\nb.png,CVP,,,,more,cells\n", ["3: b.png: the row has 7 cells, the header 5"]),
        ("a.png,NOR,,,\nd\\b.png,CVP,,,\n", ["3: d\\b.png: file not found (folders are separated by /)"]),
        ("no.png,,p,x,m.png\na.png,NOR,,,\nb.png,CVP,,,\n",
         ["2: no.png: file not found", "2: no.png: empty label",
          "2: no.png: unknown split 'x': expected train, val or test", "2: no.png: lung_mask not found: m.png"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_row(tmp_path, rows, expected):
    data = tmp_path / "data"
    touch(tmp_path, "b.png", "data/a.png", "data/b.png", "data/c.png", "data/d/b.png")
    manifest(data, "path,label,patient_id,split,lung_mask\n" + rows)
    assert problems_of(data) == [f"manifest.csv:{text}" for text in expected]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the manifest is empty"),
        (b"\xef\xbb\xbf", "the manifest is empty"),
        (b"path,label\n", "the manifest has no rows"),
        (b"path,label\n,\n\n", "the manifest has no rows"),
        (b"path|label\na.png|NOR\n", "required column missing: path, label (found: 'path|label')"),
        (b"path,Label\na.png,NOR\n", "required column missing: label (found: 'path, Label')"),
        (b"path,label,label\na.png,NOR,CVP\n", "a column is named twice: 'path, label, label'"),
        (b"path,label\na.png,NOR\n", "only 1 class (NOR): at least 2 are needed"),
        (b"\x89PNG\r\n\x1a\n\0\0", "not readable as a CSV file in UTF-8: "),
        (b"path,label\na.png,N\xd6R\n", "not readable as a CSV file in UTF-8: "),
        ("path,label\na.png,NOR\n".encode("utf-16-le"), "required column missing: path, label (found: "),
        (b'path,label\n"a.png,NOR\n', "not readable as a CSV file in UTF-8: unexpected end of data"),
        (b"path,label\n" + b"x" * 200_000 + b",NOR\n", "not readable as a CSV file in UTF-8: field larger than"),
    ],
)
def test_what_is_wrong_with_a_manifest(tmp_path, content, expected):
    touch(tmp_path, "a.png")
    (tmp_path / "manifest.csv").write_bytes(content)
    problems = problems_of(tmp_path / "manifest.csv")
    assert len(problems) == 1
    assert problems[0].startswith(f"{tmp_path / 'manifest.csv'}: {expected}")


def test_a_nul_character_is_told(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "manifest.csv").write_bytes(b"path,label\na.png,NOR\nb.png,C\0VP\n")
    problems = problems_of(tmp_path)
    assert len(problems) > 0  # Python 3.10's csv refuses the file, later ones leave it to us
    assert "NUL" in problems[0]


def test_without_labels_no_label_column_is_needed(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    assert [record.label for record in read_records(manifest(tmp_path, "path\na.png\nb.png\n"), labelled=False)] == [
        "",
        "",
    ]
    labelled = manifest(tmp_path, "path,label\na.png,NOR\nb.png,\n")
    assert [record.label for record in read_records(labelled, labelled=False)] == ["NOR", ""]


def test_many_problems_are_counted_and_twenty_shown(tmp_path):
    file = manifest(tmp_path, "path,label\n" + "".join(f"{i}.png,{'AB'[i % 2]}\n" for i in range(25)))
    with pytest.raises(DataError) as error:
        read_records(file)
    lines = str(error.value).split("\n")
    assert lines[0] == f"25 problems in {file} (first 20 shown):"
    assert lines[1:] == [f"  manifest.csv:{i + 2}: {i}.png: file not found" for i in range(20)]
    assert len(error.value.problems) == 25
    again = pickle.loads(pickle.dumps(error.value))
    assert (str(again), again.problems) == (str(error.value), error.value.problems)
    assert str(DataError(["a: b"], file)) == "a: b"
    assert str(DataError(["a: b", "c: d"], file)) == f"2 problems in {file}:\n  a: b\n  c: d"


@settings(deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_make_a_manifest_raise_anything_else(tmp_path_factory, content, with_header):
    file = tmp_path_factory.mktemp("fuzz") / "manifest.csv"
    file.write_bytes(b"path,label\n" * with_header + content)
    records, problems = scan_records(file)
    assert problems
    assert not records


def test_class_names():
    records = [Record(Path(f"/{label}"), label, label) for label in ("NOR", "CVP", "NOR", "NCP")]
    assert class_names(records) == ["CVP", "NCP", "NOR"]
    assert class_names(records, ["NOR", "NCP", "CVP"]) == ["NOR", "NCP", "CVP"]


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ("AB", ["A"], "labels not among the classes A: B; name every class, or correct the labels"),
        ("AB", ["A", "B", "C"], "classes without an image: C; labels of the images: A, B"),
        ("AB", ["A", "B", "A"], "classes A, B, A: each must be given once"),
        ("A", None, "only one class (A): at least 2 are needed"),
        (["A", ""], None, "some images have no label"),
    ],
)
def test_class_names_refuses(labels, classes, message):
    with pytest.raises(UserError) as error:
        class_names([Record(Path("/x"), "x", label) for label in labels], classes)
    assert str(error.value) == message


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp", "Zs"]), min_size=1, max_size=9)


@settings(deadline=None)
@given(st.data())
def test_a_written_manifest_is_read_as_it_was(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("data")
    records = []
    ids = patient_ids(data.draw(st.lists(texts | st.just(""), min_size=2, max_size=5)))
    for index, patient_id in enumerate(ids):
        touch(root, name := f'{index} "ü",.png')
        records.append(
            Record(
                root / name,
                name,
                label="AB"[index % 2],
                source=data.draw(texts.map(clean) | st.just("")),
                patient_id=patient_id,
                lung_mask=data.draw(st.sampled_from([None, root / '0 "ü",.png'])),
                metadata={"finding": data.draw(texts)},
                where=f"manifest.csv:{index + 2}",
            )
        )
    write_manifest(root / "manifest.csv", records)
    assert read_records(root) == records


def test_a_written_manifest_has_the_columns_in_use(tmp_path):
    records = [Record(tmp_path / "x/a.png", "a.png", "A"), Record(tmp_path / "x/b.png", "b.png", "B", view="PA")]
    write_manifest(tmp_path / "manifest.csv", records)
    assert (tmp_path / "manifest.csv").read_bytes() == b"path,label,view\nx/a.png,A,\nx/b.png,B,PA\n"


def test_a_manifest_that_cannot_be_written_is_left_as_it_was(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "m.csv").write_text("old")
    with pytest.raises(UserError, match=r"a\.png: expected a file in the folder"):
        write_manifest(tmp_path / "in" / "m.csv", [Record(tmp_path / "a.png", "a.png")])
    with pytest.raises(UserError, match="cannot be written"):
        write_manifest(tmp_path / "in" / "m.csv" / "m.csv", [])
    assert [(file.name, file.read_text()) for file in (tmp_path / "in").iterdir()] == [("m.csv", "old")]


@pytest.mark.realdata
def test_real_manifest(cxr):
    records = read_records(cxr)
    assert len(records) == 1552
    assert class_names(records) == ["CVP", "NCP", "NOR"]
    assert sum(record.lung_mask is not None for record in records) == 95
    assert sum(record.lesion_mask is not None for record in records) == 90
    assert len({record.patient_id for record in records}) == 1016
    assert all(record.metadata["finding"] for record in records)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("empty", ["", "   "])
def test_what_excel_writes(tmp_path, encoding, delimiter, empty):
    touch(tmp_path, "a.png", "é.png")
    lines = [["path", "label", empty, ""], ["a.png", "NOR", "", ""], ["é.png", "CVP", "", empty], ["", "", "", ""]]
    text = "\r\n".join(delimiter.join(line) for line in lines)
    records = read_records(manifest(tmp_path, text, encoding))
    assert [(r.name, r.label, dict(r.metadata)) for r in records] == [("a.png", "NOR", {}), ("é.png", "CVP", {})]


def test_a_column_without_a_name(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    index = manifest(tmp_path, ",path,label\n0,a.png,NOR\n1,b.png,CVP\n")  # as pandas writes its index
    assert [r.label for r in read_records(index)] == ["NOR", "CVP"]
    loose = manifest(tmp_path, "path,label,,\na.png,NOR,,\nb.png,Pneumonia, viral,\n")
    assert problems_of(loose, min_classes=1) == ["manifest.csv:3: b.png: a cell in a column without a name: 'viral'"]


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        (
            "Image Index,Finding Labels,Follow-up #,Patient ID,View Position",
            "'Image Index' is path, 'Finding Labels' is label, 'Patient ID' is patient_id, 'View Position' is view",
        ),
        ("Path,Sex,No Finding,Edema", "'Path' is path"),
        ("filename,class", "'filename' is path, 'class' is label"),
        ("path,Label", "'Label' is label"),
        ("a,b", ""),
    ],
)
def test_other_data_sets_columns_get_a_hint(tmp_path, header, hint):
    (problem,) = problems_of(manifest(tmp_path, f"{header}\nx,y\n"))
    assert "required column missing" in problem
    assert problem.partition("; perhaps ")[2].partition(", or use ")[0] == (f"{hint}: rename them" if hint else "")


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ("", "empty label"),
        *((text, f"label '{text}' is not a class") for text in ("nan", "None", "NaN", "NULL", "N/A", "#N/A")),
        ("A|B", "label 'A|B' names several classes"),
        ("A\x1b[2JB", "label 'A\\x1b[2JB' has a character that cannot be printed"),
    ],
)
def test_what_is_no_label(tmp_path, label, problem):
    touch(tmp_path, "a.png", "b.png", "c.png")
    file = manifest(tmp_path, f"path,label\na.png,NOR\nb.png,{label}\nc.png,CVP\n")
    (found,) = problems_of(file)
    assert found.startswith(f"manifest.csv:3: b.png: {problem}")
    assert [r.label for r in read_records(file, labelled=False)][1] in ("", "A|B", "A\x1b[2JB")


def test_labels_are_normalised(tmp_path):
    touch(tmp_path, "a.png", "b.png", "c.png")
    file = manifest(tmp_path, "path,label\na.png, Ne\u0301ant\nb.png,N\u00e9ant\u00a0\nc.png,\u200bCVP\n")
    assert [r.label for r in read_records(file)] == ["N\u00e9ant", "N\u00e9ant", "CVP"]


@pytest.mark.parametrize("other", ["covid", "Covid", "CO VID", "CO\u200bVID", "ＣＯＶＩＤ"])
def test_labels_that_look_alike_are_refused(tmp_path, other):
    touch(tmp_path, "a.png", "b.png", "c.png")
    (problem,) = problems_of(manifest(tmp_path, f"path,label\na.png,COVID\nb.png,{other}\nc.png,CVP\n"))
    assert "labels that differ only in case or blanks" in problem
    assert "manifest.csv:2" in problem
    assert "manifest.csv:3" in problem
    assert problem.endswith("spell them in one way")


@pytest.mark.parametrize(("disk", "listed"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_file_in_another_unicode_form_is_found(tmp_path, disk, listed):
    names = ["Müller/é.png", "Müller/ñ.png"]
    touch(tmp_path, *(unicodedata.normalize(disk, name) for name in names))
    rows = [unicodedata.normalize(listed, name) for name in names]
    file = manifest(tmp_path, f"path,label,lung_mask\n{rows[0]},A,{rows[1]}\n{rows[1]},B,\nMüller/nö.png,B,\n")
    records, problems = scan_records(file)
    assert [r.name for r in records] == rows
    assert [r.path.is_file() for r in records] == [True, True]
    assert records[0].lung_mask == records[1].path
    assert problems == ["manifest.csv:4: Müller/nö.png: file not found"]


def test_one_file_under_two_spellings_is_a_duplicate(tmp_path):
    touch(tmp_path, "e\u0301.png", "b.png")
    file = manifest(tmp_path, "path,label\ne\u0301.png,A\n\u00e9.png,A\nb.png,B\n")
    assert problems_of(file) == ["manifest.csv:3: \u00e9.png: duplicate path (also in line 2)"]


@pytest.mark.skipif(os.name != "posix", reason="needs FIFOs")
def test_what_cannot_be_a_file_is_told_with_its_row(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    long = "x" * 300 + ".png"
    rows = f"a.png,A\nb.png,B\nfifo.png,A\nfolder.png,A\n{long},A\n" + "\0.png,A\n" * (sys.version_info > (3, 11))
    problems = problems_of(manifest(tmp_path, "path,label\n" + rows))
    assert problems[:3] == [
        "manifest.csv:4: fifo.png: not a regular file",
        "manifest.csv:5: folder.png: not a regular file",
        f"manifest.csv:6: {long}: File name too long",
    ]


@pytest.mark.skipif(os.name != "posix", reason="needs FIFOs")
def test_a_manifest_that_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "m.csv")
    for path in (tmp_path / "m.csv", Path("/dev/zero")):
        assert problems_of(path) == [f"{path}: a FIFO, socket or device; expected a regular file"]


def test_a_problem_is_one_line_whatever_the_cell(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    file = manifest(tmp_path, 'path,label,lung_mask\na.png,A,"m\n\x1b.png"\nb.png,B,\n')
    assert problems_of(file, min_classes=1) == [r"manifest.csv:3: a.png: lung_mask not found: m\n\x1b.png"]


@pytest.mark.parametrize("split", ["Split", "SPLIT ", "split"])
@pytest.mark.parametrize("patient", ["Patient ID", "PatientID", "patient-id"])
def test_optional_columns_in_other_spelling_count(tmp_path, split, patient):
    """Otherwise test images would be trained on, and patients would be in two folds, without a word."""
    touch(tmp_path, "a.png", "b.png")
    file = manifest(tmp_path, f"path,label,{split},{patient},Age\na.png,A,test,7,50\nb.png,B,train,8,60\n")
    records = read_records(file)
    assert [(r.split, r.patient_id, r.metadata) for r in records] == [
        ("test", "7", {"Age": "50"}),
        ("train", "8", {"Age": "60"}),
    ]


@pytest.mark.parametrize("separator", [";", ", ", "/", " + ", " and "])
def test_several_findings_in_two_orders_are_refused(tmp_path, separator):
    touch(tmp_path, "a.png", "b.png", "c.png")
    file = manifest(tmp_path, f'path,label\na.png,"A{separator}B"\nb.png,"b{separator}A"\nc.png,A\n')
    _, problems = scan_records(file)
    (problem,) = problems
    assert "labels that differ only in the order of their parts" in problem

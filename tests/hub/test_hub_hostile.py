"""A push of a run whose files are damaged, or were made to do harm: one line, and nothing is asked of the Hub."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cvrnet.errors import UserError
from cvrnet.hub.card import markdown
from cvrnet.hub.staging import stage_run
from cvrnet.runs.checkpoint import load_checkpoint
from cvrnet.runs.layout import fold_number
from tests.support.hub import LocalHub
from tests.support.hub_runs import change_run, make_folds, read_checkpoint

REPO = "ada/net"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folds(tmp_path_factory.mktemp("hostile") / "run")


@pytest.fixture(scope="module")
def model(made: Path) -> Any:
    return load_checkpoint(made / "fold-1")


@pytest.fixture
def folds(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def refused(run: Path) -> str:
    """The one line of a push that is refused before anything is asked of the Hub."""
    with pytest.raises(UserError) as error:
        stage_run(run, REPO)
    assert "\n" not in str(error.value)
    return str(error.value)


DEEP: Any = {}
for _ in range(900):
    DEEP = {"deeper": DEEP}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            (key, value)
            for key in ("kind", "test_source", "data", "data_sha256", "data_key")
            for value in (1, [], {}, None)
        ),
        *(("classes", value) for value in ("CVP", {"CVP": 1}, 3, None, [1], [["CVP"]], [None])),
        *(("images", value) for value in ([1], "x", 3, {"CVP": "<b>"}, {"CVP": [1]}, {"CVP": None})),
        *(("config", value) for value in ([], "x", 3, None, {"lr": float("nan")}, {"lr": float("inf")}, DEEP)),
        *(("versions", value) for value in ([], "x", 3, None)),
        *(("source", value) for value in ([], "x", 3, {"file": "x"})),
        ("folds", "two"),
        ("folds", {}),
        ("classes", []),
        ("classes", ["A"] * 4),
    ],
)
def test_a_run_json_of_other_types_is_refused(made: Path, tmp_path: Path, key: str, value: Any) -> None:
    (run := tmp_path / "run").mkdir()
    for name in ("fold-1", "fold-2"):
        (run / name).symlink_to(made / name)
    (run / "run.json").write_text((made / "run.json").read_text())
    change_run(run, **{key: value})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cvrnet.hub.staging._check_inside", lambda run, folders: None)
        line = refused(run)
    assert key in line or "is damaged" in line or "run.json cannot be read" in line


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", "1" * 5000, '{"classes": ' + "[" * 100_000, '{"classes": ["A"], "a": 1' + "0" * 5000 + "}"],
)
def test_a_run_json_that_is_none(folds: Path, text: str) -> None:
    (folds / "run.json").write_text(text)
    assert "run.json" in refused(folds)


SUMMARIES: list[Any] = [
    {"folds": 3},
    {"folds": [3]},
    {"folds": [{"n": "<script>"}]},
    {"mean_std": {"accuracy": {"mean": "x", "n": 2}}},
    {"mean_std": {"accuracy": {"mean": 10**400, "n": 2, "std": 1}}},
    {"mean_std": {"accuracy": {"mean": float("nan"), "n": 2, "std": 1}}},
    {"mean_std": {}, "pooled": {"per_class": [1]}},
    {"mean_std": {}, "pooled": [1]},
    {"mean_std": {}, "independent": 3},
    {"mean_std": {}, "deep": DEEP},
]


@pytest.mark.parametrize("summary", SUMMARIES, ids=lambda value: json.dumps(value)[:40])
def test_a_summary_of_other_types_is_refused(folds: Path, summary: Any) -> None:
    (folds / "summary.json").write_text(json.dumps(summary))
    assert str(folds) in refused(folds)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("/home/ada/x.png")
VALUES = st.recursive(
    LEAVES,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=8), part, max_size=3),
    max_leaves=8,
)
KEYS = {
    "run.json": ["kind", "classes", "images", "config", "versions", "source", "folds", "commits", "test_source"],
    "summary.json": ["folds", "mean_std", "pooled", "independent"],
    "fold-1/metrics.json": ["val", "test"],
    "audit.json": ["findings"],
}


@settings(deadline=None)
@given(place=st.sampled_from([(name, key) for name, keys in KEYS.items() for key in keys]), value=VALUES)
def test_any_value_gives_a_card_or_one_line(made: Path, model: Any, place: tuple[str, str], value: Any) -> None:
    path = made / place[0]
    before = path.read_text() if path.exists() else "{}"
    path.write_text(json.dumps(json.loads(before) | {place[1]: value}))
    lines = ["a card"]
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cvrnet.hub.staging.load_checkpoint", lambda folder: model)
            card = ModelCard(stage_run(made, REPO).card.decode())
        assert card.data.license == "apache-2.0"
        assert "/home/ada" not in card.text
    except UserError as error:
        lines = str(error).splitlines()
    finally:
        path.write_text(before) if before != "{}" else path.unlink()
    assert len(lines) == 1


@pytest.mark.parametrize("name", ["fold-1/metrics.json", "audit.json"])
@pytest.mark.parametrize("value", [{"val": 3}, {"test": [3]}, {"findings": 3}, {"findings": [{"severity": "severe"}]}])
def test_metrics_and_audits_of_other_types(folds: Path, name: str, value: Any) -> None:
    (folds / name).write_text(json.dumps(value))
    if ("findings" in value) == (name == "audit.json"):
        assert str(folds) in refused(folds)
    else:
        stage_run(folds, REPO)  # nothing that is read


NAMES = [
    "<script>alert(1)</script>",
    "a | b",
    "[click](javascript:alert(1))",
    "![](http://tracker.example/x.png)",
    "http://phish.example",
    "a\n---\nlicense: evil\n---\n# heading",
    "<!-- /cvrnet:summary -->",
    "```\ncode",
    "*bold* _it_ `code` ~~x~~ $x$ &amp; \\",
    "\x1b[2J\x07\u202egnp.exe",
    "\udcff",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_classes_are_text_in_the_card(made: Path, tmp_path: Path, name: str) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    run = tmp_path / "run"
    shutil.copytree(made, run)
    score = {"support": 4, "sensitivity": 0.5, "specificity": 0.5, "ppv": 0.5, "npv": 0.5, "roc_auc": 0.5}
    summary = {"mean_std": {}, "pooled": {"per_class": {name: score}}}
    (run / "summary.json").write_text(json.dumps(summary))
    findings = [{"severity": "severe", "sentence": f"All images of {name} come from one source."}]
    (run / "audit.json").write_text(json.dumps({"findings": findings}))
    change_run(run, classes=["CVP", name, "NOR"], images={name: 4}, versions={name: name}, test_source=name)
    plain, ours = stage_run(made, REPO), stage_run(run, REPO)
    card = ModelCard(ours.card.decode())
    assert card.data.license == "apache-2.0"
    html = markdown_it.MarkdownIt("commonmark", {"linkify": False}).enable("table").render(card.text)
    before = markdown_it.MarkdownIt("commonmark").enable("table").render(ModelCard(plain.card.decode()).text)
    for tag in ("<script", "<a ", "<img", "<h1", "<h2", "<em", "<del", "<!--"):
        assert html.count(tag) == before.count(tag), tag
    shown = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    (row,) = (line for line in html.split("<tr>") if "0.500" in line)
    cell = row.partition("<td>")[2].partition("</td>")[0]
    assert cell == shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert row.count("<td") == 7
    json.loads(ours.main_files({})["run.json"])  # type: ignore[arg-type]


@given(st.text(max_size=60))
def test_markdown_is_one_line_of_text(text: str) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    escaped = markdown(text)
    (_, inline, _) = markdown_it.MarkdownIt("commonmark").parse(f"x{escaped}x")
    assert (
        [child.type for child in inline.children] == ["text"]
        or not inline.children
        or all(child.type in ("text", "text_special") for child in inline.children)
    )
    shown = "".join(child.content for child in inline.children)
    assert shown == "x" + " ".join("".join(c if c.isprintable() else " " for c in text).split()) + "x"


# Folders


NO_FOLDS = ["fold-evil", "fold-0", "fold-01", "fold-1 ", "fold-1\u0661", "fold-\u0661", "fold-", "Fold-1", "fold-1.old"]


@pytest.mark.parametrize("name", NO_FOLDS)
def test_a_folder_that_is_no_fold_is_not_pushed(folds: Path, name: str, cli: Any) -> None:
    (folds / "fold-2").rename(folds / name)
    assert fold_number(name) is None
    assert stage_run(folds, REPO).folds.keys() == {"fold-1"}
    shutil.rmtree(folds / "fold-1")
    status, _, err = cli("push", folds, REPO, "--dry-run")
    assert (status, err) == (
        1,
        f"Error: {folds} is not a trained model: it has neither config.json nor fold-*/config.json\n",
    )


def test_a_fold_that_is_a_file(folds: Path) -> None:
    shutil.rmtree(folds / "fold-1")
    (folds / "fold-1").write_text("no folder")
    assert stage_run(folds, REPO).folds.keys() == {"fold-2"}


@pytest.mark.parametrize(
    "link", ["fold-2", "fold-2/metrics.json", "fold-2/model.safetensors", "summary.json", "audit.json"]
)
def test_a_link_out_of_the_run_is_not_followed(folds: Path, tmp_path: Path, link: str) -> None:
    """Who is given a run must not publish his own files by pushing it."""
    secret = tmp_path / "elsewhere"
    if (folds / link).exists():
        (folds / link).rename(secret)
    else:
        secret.write_text('{"password": "x"}')
    (folds / link).symlink_to(secret)
    assert f"{folds / link}" in (line := refused(folds))
    assert "outside the run; replace the link by a copy" in line


@pytest.mark.parametrize(
    "name", ["run.json", "fold-1/metrics.json", "fold-1/config.json", "summary.json", "audit.json"]
)
def test_a_pipe_is_not_waited_for(folds: Path, name: str) -> None:
    (folds / name).unlink(missing_ok=True)
    os.mkfifo(folds / name)
    if name in ("run.json", "fold-1/config.json"):
        assert name in (line := refused(folds)) or "fold-1" in line
    else:
        stage_run(folds, REPO)  # as if it was not there


def test_a_run_that_is_a_link_itself_and_links_inside(folds: Path, tmp_path: Path) -> None:
    (folds / "fold-2/metrics.json").rename(folds / "kept.json")
    (folds / "fold-2/metrics.json").symlink_to("../kept.json")
    (tmp_path / "link").symlink_to(folds)
    assert stage_run(tmp_path / "link", REPO).folds.keys() == {"fold-1", "fold-2"}


@pytest.mark.parametrize(
    "commits",
    [
        {"fold-evil": "0" * 40},
        {"fold-1/../x": "0" * 40},
        {"../fold-1": "0" * 40},
        {"fold-" + "9" * 5000: "0" * 40},
        {"fold-1": "../main"},
        {"fold-1": 10**39},
        {"fold-1": ["0" * 40]},
        ["fold-1"],
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_strangers_run_json_names_no_other_folders(
    hub: LocalHub, made: Path, tmp_path: Path, commits: Any, cli
) -> None:
    Image.new("L", (64, 64)).save(image := tmp_path / "a.png")
    hub.add("eve/net", read_checkpoint(made / "fold-1") | {"run.json": json.dumps({"commits": commits}).encode()})
    for arguments in (("pull", "eve/net", "-o", tmp_path / "pulled"), ("predict", "hf-hub:eve/net", image)):
        status, _, err = cli(*arguments)
        assert (status, err.count("\n")) == (1, 1)
        assert "run.json of commit" in err
        assert "was not written by cvrnet" in err
    assert list(tmp_path.iterdir()) == [image]

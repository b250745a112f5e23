"""The command line: what it prints where, its exit statuses, and a user's mistakes."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest

from cvrnet.inference import Predictor
from cvrnet.training import TrainConfig
from cvrnet_cli.commands import cli as group
from cvrnet_cli.options import MODEL, PROTOCOL, setting_name
from tests.support.few import draw_few_phantoms
from tests.support.signals import sigint

TINY = ["--encoders", "test_resnet,test_efficientnet", "--no-pretrained", "--img-size", "64", "--epochs", "1"]
PLAIN = ["--no-audit", "--no-maps"]


def test_help_imports_no_torch():
    code = "import sys, cvrnet_cli; sys.exit(bool({'torch', 'timm', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("command", sorted(group.commands))
def test_every_command_has_help_with_examples(cli, command):
    status, out, _ = cli(command, "--help")
    assert status == 0
    assert f"cvrnet {command}" in out.partition("Usage")[2].partition("\n")[2], "an example"


def test_the_helps_defaults_are_the_protocols():
    shown = {setting_name(flag): default for flag, _, default, _ in (*MODEL, *PROTOCOL)}
    empty = dict.fromkeys(("encoders", "encoder_weights", "model_kwargs", "specificity", "findings"), "")
    assert TrainConfig().to_dict() | empty == shown


@pytest.mark.parametrize("command", ["predict", "evaluate", "export", "soup", "demo", "push", "pull"])
def test_folds_of_a_run_are_chosen_by_fold(command, capsys):
    def chosen(*arguments: str) -> list[int]:
        needed = ["a/b", "c/d", *(["-o", "out"] if command in ("evaluate", "export", "soup") else [])]
        count = 1 if command in ("export", "demo", "pull") else 2
        context = group.commands[command].make_context(command, [*needed[:count], *needed[2:], *arguments])
        return context.params["folds"]

    assert chosen() == []
    assert chosen("--fold", "1,3") == chosen("--fold", "1", "--fold", "3") == [1, 3]
    assert capsys.readouterr().err == ""
    assert chosen("--folds", "1,3") == [1, 3], "as version 0.1 spelled it"
    assert capsys.readouterr().err.startswith("Warning: use --fold to select folds of a run")
    with pytest.raises(click.BadParameter, match="'x' is not a fold; expected numbers such as 1,3"):
        chosen("--fold", "1,x")


def test_phantoms_train_evaluate_predict(cli, tmp_path):
    data, run = tmp_path / "phantoms", tmp_path / "run"
    status, out, err = cli("phantoms", "-o", data, "-n", 30, "--size", 64)
    assert (status, out.strip()) == (0, str(data / "manifest.csv"))
    assert "cvrnet train" in err
    status, out, err = cli("train", data, "-o", run, *TINY)
    assert status == 0
    assert out.splitlines()[0].split() == [
        "set", "images", "accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "auc_macro",
    ]  # fmt: skip
    assert "epoch   1/1" in err
    status, out, err = cli("evaluate", run, data, "-o", tmp_path / "evaluation")
    assert status == 0
    assert {p.name for p in (tmp_path / "evaluation").iterdir()} >= {
        "run.json", "metrics.json", "predictions.csv", "report.html", "figures", "tables",
    }  # fmt: skip
    status, _, err = cli("evaluate", run, data, "-o", tmp_path / "evaluation")
    assert status == 1
    assert "--overwrite replaces it" in err
    status, _, err = cli("train", data, "-o", run, *TINY)
    assert status == 1
    assert err == f"Error: {run} exists; --resume continues it, --overwrite replaces it\n"


def test_quickstart(cli, tmp_path, monkeypatch):
    asked = draw_few_phantoms(monkeypatch, 24)
    status, out, err = cli("quickstart", "-o", tmp_path / "q", "--epochs", 1)
    assert (status, asked) == (0, [(240, 128)])
    assert "prob_CVP" in out
    assert f"cvrnet predict {tmp_path / 'q' / 'run'}" in err
    status, _, err = cli("quickstart", "-o", tmp_path / "q")
    assert status == 1
    assert err.count("\n") == 1


def test_quickstart_on_ones_own_data(cli, phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr("cvrnet.model_info.describe_model", lambda name: SimpleNamespace(pretrained="no"))
    few = phantoms.with_name("few.csv")
    few.write_text("".join(phantoms.read_text().splitlines(keepends=True)[:25]))
    status, out, err = cli("quickstart", few, "-o", tmp_path / "q", "--epochs", 1)
    assert status == 0
    assert "Training cvrnet_tiny from random weights" in err
    assert "prob_CVP" in out
    assert not (tmp_path / "q" / "phantoms").exists()


@pytest.fixture
def images(phantoms: Path) -> list[Path]:
    return sorted(phantoms.parent.glob("images/*/*.png"))[:5]


def test_predictions_in_every_format(cli, run, images, tmp_path):
    expected = [p.probabilities for p in Predictor.from_pretrained(run)(images)]
    tables = {}
    for style in ("csv", "json", "jsonl"):
        status, out, _ = cli("predict", run, *images, "--format", style)
        assert status == 0
        if style == "csv":
            tables[style] = list(csv.DictReader(io.StringIO(out)))
        else:
            tables[style] = json.loads(out) if style == "json" else [json.loads(line) for line in out.splitlines()]
    for rows in tables.values():
        assert [row["path"] for row in rows] == list(map(str, images))
        got = [[float(row[f"prob_{c}"]) for c in ("CVP", "NCP", "NOR")] for row in rows]
        np.testing.assert_allclose(got, expected, atol=1e-6)
    status, out, _ = cli("predict", run, *images)
    assert out.splitlines()[0].split() == ["path", "prediction", "prob_CVP", "prob_NCP", "prob_NOR", "error"]
    target = tmp_path / "p.jsonl"
    assert cli("predict", run, *images, "-o", target)[0] == 0
    assert [json.loads(line) for line in target.read_text().splitlines()] == tables["jsonl"]
    status, _, err = cli("predict", run, *images, "-o", target)
    assert (status, err) == (1, f"Error: {target} exists; --overwrite replaces it\n")


def test_heads_average_to_the_prediction(cli, run, images):
    _, out, _ = cli("predict", run, *images, "--heads", "--format", "jsonl")
    for row in map(json.loads, out.splitlines()):
        for name in ("CVP", "NCP", "NOR"):
            heads = [row[f"head_{i}_{name}"] for i in range(1, 6)]
            assert np.mean(heads) == pytest.approx(row[f"prob_{name}"], abs=1e-6)


def test_paths_are_files_folders_manifests_and_patterns(cli, run, phantoms, monkeypatch):
    root = phantoms.parent

    def paths(*arguments):
        status, out, _ = cli("predict", run, *arguments, "--format", "jsonl")
        assert status == 0
        return {json.loads(line)["path"] for line in out.splitlines()}

    everything = {str(p) for p in root.glob("images/*/*.png")}
    assert paths(root / "images") == everything
    assert paths(phantoms) == everything
    assert paths(f"{root}/images/**/*.png") == everything
    monkeypatch.chdir(root)
    assert paths("images/site-a") == {str(p.relative_to(root)) for p in root.glob("images/site-a/*.png")}


def test_a_bad_image_is_named_and_the_others_go_on(cli, run, images, tmp_path):
    text, missing = tmp_path / "text.png", tmp_path / "missing.png"
    text.write_text("not an image")
    status, out, err = cli("predict", run, images[0], text, missing, images[1], "--format", "jsonl", "--no-gate")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert [bool(row["error"]) for row in rows] == [False, True, True, False]
    assert rows[0]["prob_NOR"] is not None
    assert rows[1]["prediction"] == ""
    lines = err.splitlines()
    assert len(lines) == 3
    assert str(text) in lines[0]
    assert str(missing) in lines[1]
    assert lines[2] == "Error: 2 of 4 images could not be read"


def test_evaluate_leaves_bad_images_out_and_says_so(cli, run, phantoms, tmp_path):
    text = phantoms.parent / "late.png"
    text.write_text("broken after the manifest was made")
    manifest = phantoms.parent / "with-bad.csv"
    lines = phantoms.read_text().splitlines()
    width = lines[0].count(",")
    manifest.write_text("\n".join([*lines, "late.png,NOR" + "," * (width - 1)]) + "\n")
    status, _, err = cli("evaluate", run, manifest, "-o", tmp_path / "e", *PLAIN)
    assert status == 1
    assert "1 of 37 images were left out" in err
    assert json.loads((tmp_path / "e/metrics.json").read_text())["test"]["n"] == 36


def test_an_unknown_class_is_an_error_and_a_missing_one_is_not(cli, run, phantoms, tmp_path):
    lines = phantoms.read_text().splitlines()
    manifest = phantoms.parent / "two.csv"
    manifest.write_text("\n".join([lines[0], *(line for line in lines[1:] if ",NOR," not in line)]))
    assert cli("evaluate", run, manifest, "-o", tmp_path / "two", *PLAIN)[0] == 0
    manifest.write_text(phantoms.read_text().replace(",NOR,", ",OBP,"))
    status, _, err = cli("evaluate", run, manifest, "-o", tmp_path / "e", *PLAIN)
    assert (status, err) == (1, "Error: the model does not know the class OBP; expected CVP, NCP, NOR\n")


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["predict", "nowhere", "x.png"], 1, "nowhere: no such folder"),
        (["train", "nowhere", "-o", "out"], 1, "nowhere"),
        (["train", ".", "-o", "out", "--lr", "-1"], 2, "--lr"),
        (["train", ".", "-o", "out", "--device", "tpu"], 1, "unknown device 'tpu'"),
        (["train", ".", "-o", "out", "--device", "cuda:99"], 1, "device 'cuda:99' is not available"),
        *(
            (["train", ".", "-o", "out", option, value], status, value)
            for option, value, status in [
                ("--optimizer", "nosuch", 1),
                ("--lr", "nan", 1),
                ("--lr", "inf", 1),
                ("--lr", "0", 2),
                ("--epochs", "0", 2),
                ("--seed", str(2**70), 2),
                ("--num-workers", "-1", 2),
                ("--num-workers", "1000000", 2),
                ("--batch-size", "1000000000", 2),
                ("--device", "cuda:9", 1),
            ]
        ),
        (["train", ".", "-o", "out", "--weight-decay", "-1"], 2, "--weight-decay"),
        (["crossval", ".", "-o", "out", "--optimizer", "nosuch"], 1, "expected one of adabelief, "),
        (
            ["benchmark", ".", "-o", "out", "--models", "test_vit", "--optimizer", "nosuch"],
            1,
            "expected one of adabelief, ",
        ),
        (["predict"], 2, "MODEL"),
        (["frobnicate"], 2, "frobnicate"),
        (["models", "resnet50"], 1, "resnet50"),
        (["phantoms", "-o", "out", "-n", "3"], 1, "3"),
    ],
)
def test_a_mistake_is_one_line(cli, tmp_path, monkeypatch, arguments, status, expected):
    monkeypatch.chdir(tmp_path)
    got, out, err = cli(*arguments)
    assert (got, out) == (status, "")
    (line,) = (line for line in err.splitlines() if line.startswith("Error:"))
    assert expected in line
    assert not list(tmp_path.iterdir())


def test_models_lists_and_details(cli):
    _, out, _ = cli("models", "--format", "jsonl")
    models = {row["model"]: row for row in map(json.loads, out.splitlines())}
    assert models["cvrnet"]["encoders"] == "resnet50 + legacy_xception"
    assert models["cvrnet"]["parameters_M"] == 48.47
    assert models["cvrnet_tiny"]["parameters_M"] < 4
    _, out, err = cli("models", "cvrnet", "--format", "csv")
    heads = list(csv.DictReader(io.StringIO(out)))
    assert [(h["head"], int(h["channels"]), h["grid"]) for h in heads] == [
        ("P1", 512, "28x28"), ("P2", 1024, "14x14"), ("P3", 4096, "7x7"), ("P4", 728, "28x28"), ("P5", 1024, "14x14"),
    ]  # fmt: skip
    assert "48,468,727 trainable parameters" in err


def test_doctor(cli, monkeypatch):
    _, out, _ = cli("doctor", "--format", "jsonl")
    table = {row["item"]: row["value"] for row in map(json.loads, out.splitlines())}
    assert {"python", "torch", "timm", "device", "bf16", "threads", "Hub endpoint", "Hub login"} <= table.keys()
    assert table["extra [train]"] == "installed"
    monkeypatch.setattr("cvrnet.installation._version", lambda name: None if name == "accelerate" else "1.0")
    _, out, _ = cli("doctor")
    assert 'missing accelerate: pip install "cvrnet[train]"' in out


def test_a_missing_extra_is_named(cli, monkeypatch, phantoms, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == "cvrnet" and "training" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    status, _, err = cli("train", phantoms, "-o", tmp_path / "run", *TINY)
    assert (status, err) == (1, 'Error: this command needs accelerate; pip install "cvrnet[train]"\n')


def test_the_audit_does_not_need_the_packages_of_training(cli, monkeypatch, phantoms):
    for name in [name for name in sys.modules if name.startswith(("cvrnet.workflows", "cvrnet.training"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    _, out, err = cli("audit", phantoms, "--no-features")
    assert (out.count("note "), "Error" in err) == (out.count("\n"), False), err


@pytest.mark.realdata
def test_awkward_files_are_read_or_refused(cli, run, odd):
    status, out, err = cli("predict", run, odd, "--format", "jsonl")
    rows = {Path(row["path"]).name: row for row in map(json.loads, out.splitlines())}
    bad = {name for name, row in rows.items() if row["error"]}
    assert status == 1
    assert bad == {name for name in rows if name.startswith("bad-")}
    assert len(bad) == 4
    assert len(rows) - len(bad) == 22
    assert "4 of 26 images could not be read" in err


def interrupted(work) -> None:
    """Whether Ctrl-C in this work reaches it, and leaves the process as it was."""
    import signal

    from cvrnet_cli.interruption import interruptible

    before = sys.unraisablehook
    with sigint():
        with pytest.raises(KeyboardInterrupt), interruptible():
            work()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert sys.unraisablehook is before


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_is_not_lost_where_python_cannot_raise(capsys):
    """In a finaliser, and in a weak reference's callback."""
    import signal
    import time
    import weakref

    class Finalised:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def finalise() -> None:
        Finalised()
        for _ in range(10_000):
            time.sleep(0.001)

    def call_back() -> None:
        thing = {0}
        reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
        del thing
        assert reference() is None
        for _ in range(10_000):
            time.sleep(0.001)

    interrupted(finalise)
    interrupted(call_back)
    assert "Exception ignored" not in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_waits_for_the_end_of_an_import(tmp_path, monkeypatch):
    import time

    (tmp_path / "slow_to_import.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\nwhole = True\n")
    monkeypatch.syspath_prepend(tmp_path)

    def work() -> None:
        import slow_to_import

        assert slow_to_import.whole
        time.sleep(10)

    interrupted(work)
    assert sys.modules["slow_to_import"].whole


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("error", ["UserError('in its place')", "RuntimeError('in its place')"])
def test_ctrl_c_is_told_where_c_code_reports_an_error_in_its_place(error):
    """PyTorch does so, if Ctrl-C comes while it asks a Python object for its length."""
    code = f"""
import signal
from cvrnet.errors import UserError
from cvrnet_cli import main
from cvrnet_cli.commands import cli

def lose(**options):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise {error} from None

cli.main = lose
main()
"""
    with sigint():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "Error: interrupted\n")

"""Names of the last release: they still work, with a warning, and are the same objects."""

import sys
from importlib import import_module

import pytest

from cvrnet.moved import MOVED_MODULES


@pytest.mark.parametrize("old", MOVED_MODULES)
def test_a_module_that_has_moved_is_found_by_its_old_name(old, monkeypatch):
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved to {MOVED_MODULES[old]}"):
        module = import_module(old)
    assert module is import_module(MOVED_MODULES[old])
    assert module.__spec__.name == MOVED_MODULES[old]


@pytest.mark.parametrize(
    ("old", "name", "new"),
    [
        ("cvrnet.audit.held_out", "held_out", "cvrnet.runs.held_out"),
        ("cvrnet.audit.held_out", "HeldOut", "cvrnet.runs.held_out"),
        ("cvrnet.data", "SPLIT", "cvrnet.runs.layout"),
        ("cvrnet.training", "train", "cvrnet.workflows"),
        ("cvrnet.report", "plot_roc", "cvrnet.figures"),
        ("cvrnet.training.batches", "CachedImages", "cvrnet.data.cached_images"),
    ],
)
def test_a_name_that_has_moved_is_found_where_it_was(old, name, new):
    with pytest.warns(DeprecationWarning, match=f"{old}.{name} has moved to {new}.{name}"):
        found = getattr(import_module(old), name)
    assert found is getattr(import_module(new), name)


def test_an_old_module_does_not_replace_the_function_of_its_name():
    old = import_module("cvrnet.audit.held_out")
    assert import_module("cvrnet.audit").held_out is import_module("cvrnet.runs.held_out").held_out
    assert old is sys.modules["cvrnet.audit.held_out"]


def test_what_never_was_is_still_missing():
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = import_module("cvrnet.data").nonsense


@pytest.mark.filterwarnings("ignore:cvrnet.* has moved:DeprecationWarning")
@pytest.mark.parametrize(
    "name",
    [
        "benchmark.benchmark",
        "benchmark.benchmark_rows",
        "checkpoints.load_checkpoint",
        "evaluation.predict_records",
        "experiments.cross_validate",
        "experiments.fold_sets",
        "experiments.read_folds",
        "explain.files.save_map",
        "explain.files.save_overlay",
        "results.collect",
        "soup.make_soup",
        "source_shift.leave_one_source_out",
        "source_shift.source_rows",
        "training.run.split_records",
        "training.run.train",
        "zoo.describe_model",
    ],
)
def test_functions_of_the_last_release_are_where_their_modules_went(name):
    module, _, function = name.rpartition(".")
    assert callable(getattr(import_module(f"cvrnet.{module}"), function))

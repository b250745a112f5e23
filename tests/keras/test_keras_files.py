"""HDF5 checkpoints: every layout that Keras writes, and files that are wrong, broken or hostile."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvrnet.errors import UserError
from cvrnet.keras import convert_keras, hdf5_program, load_keras
from cvrnet.keras.hdf5 import read_weights
from cvrnet.keras.hdf5_program import FORMAT
from cvrnet.keras.layers import keras_weights, rename_automatic
from tests.support.keras_checkpoint import notebook_shapes, write_checkpoint

STEM = "res_conv1/conv1/kernel:0"
STEM_SHAPE = (7, 7, 3, 64)
DECLARED_ONLY = "'/res_conv1/conv1/kernel:0' has 0 of its 37632 bytes: the file is incomplete"
NO_STEM = "not the authors' network: 'res_conv1/kernel' is missing"
NO_MKH_1 = "not the authors' network: 'MKH_1/kernel' is missing; 'MKH_1/bias' is missing"


@pytest.fixture(scope="session")
def declared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that declares every weight, and holds the values of none: nothing reads them before it is right."""
    return write_checkpoint(tmp_path_factory.mktemp("keras") / "declared.h5")


@pytest.fixture
def file(declared: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    copy = tmp_path / "weights.h5"
    copy.write_bytes(declared.read_bytes())
    return copy


def message(path: Path) -> str:
    """What is said of a bad file: one line that begins with its path."""
    with pytest.raises(UserError) as caught:
        load_keras(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert text.isprintable()
    return text.removeprefix(f"{path}: ")


@pytest.fixture
def within(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program runs in this process, without its memory limit; files that may crash it have a new process."""
    monkeypatch.setattr("resource.setrlimit", lambda limit, values: None)
    monkeypatch.setattr("cvrnet.keras.hdf5._run_program", run_within)


def run_within(path: Path) -> bytes:
    output = io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(output)):
        hdf5_program.main(str(path))
        return output.getvalue()


@pytest.mark.usefixtures("within")
@pytest.mark.parametrize("nested", [False, True], ids=["save_weights", "model.save"])
@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "pieces"])
@pytest.mark.parametrize("text", [False, True], ids=["bytes", "text"])
def test_layouts(tmp_path: Path, nested: bool, pieces: bool, text: bool) -> None:
    few = dict(list(notebook_shapes().items())[:9])
    path = write_checkpoint(tmp_path / "weights.h5", shapes=few, nested=nested, pieces=pieces, text=text)
    layers = read_weights(path)
    assert {layer: {name: w.shape for name, w in weights.items()} for layer, weights in layers.items()} == few


@pytest.mark.usefixtures("within")
def test_names_of_tf_keras(tmp_path: Path) -> None:
    """tf.keras leaves the first number away and adds an empty group."""
    first = {"dense_1": "dense", "xce_conv2d_1": "xce_conv2d", "xce_batch_normalization_1": "xce_batch_normalization"}
    path = write_checkpoint(tmp_path / "weights.h5", rename=lambda layer: first.get(layer, layer))
    with h5py.File(path, "a") as opened:
        opened.create_group("top_level_model_weights").attrs["weight_names"] = []
    assert message(path).startswith(
        "'/res_conv1/conv1/kernel:0' has 0 of its 37632 bytes: the file is incomplete"
    )  # so all names and shapes fit


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=15, max_size=15), st.randoms())
def test_shifted_numbers_are_read_in_order(steps: list[int], random: object) -> None:
    layers = list(dict.fromkeys(weight.layer for weight in keras_weights()))
    numbers = np.cumsum(steps)
    shifted = {layer: layer for layer in layers}
    for kind, count in (("dense", 15), ("xce_conv2d", 4), ("xce_batch_normalization", 4)):
        shifted |= {f"{kind}_{i + 1}": f"{kind}_{numbers[i]}" for i in range(count)}
    found = list(shifted.values())
    random.shuffle(found)  # type: ignore[attr-defined]
    assert rename_automatic(layers, found) == shifted


@pytest.mark.usefixtures("within")
def test_shapes_must_fit_the_one_reading(tmp_path: Path) -> None:
    """Higher numbers are later layers; here the widths say otherwise, so nothing is guessed."""
    swap = {"xce_conv2d_1": "xce_conv2d_10", "xce_conv2d_2": "xce_conv2d_9"}
    path = write_checkpoint(tmp_path / "weights.h5", rename=lambda layer: swap.get(layer, layer))
    told = message(path)
    assert "'xce_conv2d_3/kernel' has the shape (1, 1, 256, 728), expected (1, 1, 64, 128)" in told


def change(path: Path, edit: Callable[[h5py.File], None]) -> str:
    with h5py.File(path, "a") as opened:
        edit(opened)
    return message(path)


def replace(file: h5py.File, place: str = STEM, **options: object) -> h5py.Dataset:
    del file[place]
    return file.create_dataset(place, **{"shape": STEM_SHAPE, "dtype": "f4", **options})


def drop_layer(file: h5py.File) -> None:
    del file["MKH_3"]


def drop_bias(file: h5py.File) -> None:
    del file["res_res3a_branch1/res3a_branch1/bias:0"]


def add_layer(file: h5py.File, name: str = "dense_31") -> None:
    file.create_dataset(f"{name}/dense_31/kernel:0", (64, 3), "f4")


def add_weight(file: h5py.File) -> None:
    file.create_dataset("xce_block1_conv1/block1_conv1/bias:0", (32,), "f4")


WRONG: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "missing layer": (drop_layer, "not the authors' network: 'MKH_3/kernel' is missing; 'MKH_3/bias' is missing"),
    "missing weight": (drop_bias, "not the authors' network: 'res_res3a_branch1/bias' is missing"),
    "surplus layer": (add_layer, "not the authors' network: 'dense_31/kernel' is surplus"),
    "surplus weight": (add_weight, "not the authors' network: 'xce_block1_conv1/bias' is surplus"),
    "misshapen": (
        lambda f: replace(f, shape=(7, 7, 3, 32)),
        "not the authors' network: 'res_conv1/kernel' has the shape (7, 7, 3, 32), expected (7, 7, 3, 64)",
    ),
    "huge": (
        lambda f: replace(f, shape=(7, 7, 3, 2**40)),
        "not the authors' network: 'res_conv1/kernel' has the shape (7, 7, 3, 1099511627776), expected (7, 7, 3, 64)",
    ),
    "four channels": (
        lambda f: replace(f, shape=(7, 7, 4, 64)),
        "not the authors' network: 'res_conv1/kernel' has the shape (7, 7, 4, 64), expected (7, 7, 3, 64)",
    ),
    "one class": (
        lambda f: replace(f, "dense_3/dense_3/bias:0", shape=(1,)),
        "1 class (layer 'dense_3'); expected 2 to 1000",
    ),
    "huge number of classes": (
        lambda f: replace(f, "dense_3/dense_3/bias:0", shape=(2**40,)),
        "1,099,511,627,776 classes (layer 'dense_3'); expected 2 to 1000",
    ),
    "heads differ in classes": (
        lambda f: replace(f, "dense_6/dense_6/bias:0", shape=(4,)),
        "not the authors' network: 'dense_6/bias' has the shape (4,), expected (3,)",
    ),
    "nothing but shapes": (lambda f: None, DECLARED_ONLY),
    "not finite": (
        lambda f: replace(f, data=np.full(STEM_SHAPE, np.nan, "f4")),
        "'/res_conv1/conv1/kernel:0' has values that are not finite",
    ),
    "double precision": (
        lambda f: replace(f, dtype="f8"),
        "'/res_conv1/conv1/kernel:0' is of type float64; expected float32",
    ),
    "text as weight": (
        lambda f: replace(f, dtype=h5py.string_dtype()),
        "'/res_conv1/conv1/kernel:0' is of type object; expected float32",
    ),
    "compressed": (
        lambda f: replace(f, compression="gzip"),
        f"'/res_conv1/conv1/kernel:0' is stored in chunks or compressed; {FORMAT}, which write plain arrays",
    ),
    "a group where a weight should be": (
        lambda f: (f.pop(STEM), f.create_group(STEM)),
        NO_STEM,
    ),
    "a weight where a layer should be": (
        lambda f: (f.pop("MKH_1"), f.create_dataset("MKH_1", (3,), "f4")),
        f"{NO_MKH_1}; 'MKH_1/MKH_1' is surplus",
    ),
    "a weight twice": (
        lambda f: f.create_dataset("res_conv1/kernel:0", (3,), "f4"),
        "layer 'res_conv1' has two weights with the name 'kernel'",
    ),
    "name of two lines": (
        lambda f: add_layer(f, "one\ntwo\x1b[31m"),
        r"not the authors' network: 'one\ntwo\x1b[31m/kernel' is surplus",
    ),
    "Theano": (
        lambda f: f.attrs.create("backend", b"theano"),
        "weights from Keras's backend 'theano'; expected the backend 'tensorflow'",
    ),
}


@pytest.mark.usefixtures("within")
@pytest.mark.parametrize("name", WRONG)
def test_wrong_files(name: str, file: Path) -> None:
    edit, expected = WRONG[name]
    assert change(file, edit) == expected


@pytest.mark.usefixtures("within")
def test_negative_variance(tmp_path: Path) -> None:
    first = ("res_conv1", "res_bn_conv1")  # others are not reached
    path = write_checkpoint(
        tmp_path / "weights.h5", values=lambda layer, _, shape: np.full(shape, -0.5, "f4") if layer in first else None
    )
    assert message(path) == "'/res_bn_conv1/bn_conv1/moving_variance:0' has negative values; expected a variance"


@pytest.mark.usefixtures("within")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
class TestNothingElseIsRead:
    """What a file points to is a named pipe here: who opened it would wait for a writer for ever."""

    @pytest.fixture
    def outside(self, tmp_path: Path) -> Path:
        path = tmp_path / "outside.h5"
        os.mkfifo(path)
        return path

    def test_external_link_to_a_layer(self, file: Path, outside: Path) -> None:
        def edit(opened: h5py.File) -> None:
            del opened["MKH_1"]
            opened["MKH_1"] = h5py.ExternalLink(outside, "/MKH_1")

        assert change(file, edit) == NO_MKH_1

    def test_external_link_to_a_weight(self, file: Path, outside: Path) -> None:
        def edit(opened: h5py.File) -> None:
            del opened["res_conv1/conv1"]
            opened["res_conv1/conv1"] = h5py.ExternalLink(outside, "/conv1")

        assert change(file, edit) == f"{NO_STEM}; 'res_conv1/bias' is missing"

    def test_external_link_to_the_model(self, tmp_path: Path, outside: Path) -> None:
        with h5py.File(tmp_path / "weights.h5", "w") as opened:
            opened["model_weights"] = h5py.ExternalLink(outside, "/")
        assert message(tmp_path / "weights.h5").startswith("not the authors' network: ")

    def test_soft_link_through_an_external_one(self, file: Path, outside: Path) -> None:
        def edit(opened: h5py.File) -> None:
            opened["res_conv1/elsewhere"] = h5py.ExternalLink(outside, "/")
            del opened[STEM]
            opened[STEM] = h5py.SoftLink("/res_conv1/elsewhere/kernel")

        assert change(file, edit) == NO_STEM

    def test_external_storage(self, file: Path, outside: Path) -> None:
        def edit(opened: h5py.File) -> None:
            replace(opened, external=[(outside, 0, h5py.h5f.UNLIMITED)])

        assert change(file, edit) == "'/res_conv1/conv1/kernel:0' is stored in another file, which is not read"

    @pytest.mark.parametrize("length", [7, None], ids=["fixed", "unlimited"])
    def test_virtual_dataset(self, file: Path, outside: Path, length: int | None) -> None:
        def edit(opened: h5py.File) -> None:
            limits = (length, *STEM_SHAPE[1:])
            source = h5py.VirtualSource(outside, "kernel", STEM_SHAPE, maxshape=limits)
            layout = h5py.VirtualLayout(STEM_SHAPE, "f4", maxshape=limits)
            rows = slice(0, length or h5py.h5s.UNLIMITED)
            layout[rows] = source[rows]
            del opened[STEM]
            opened.create_virtual_dataset(STEM, layout)

        assert change(file, edit) == "'/res_conv1/conv1/kernel:0' is stored in another file, which is not read"


def test_not_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    assert message(path) == f"no such file; {FORMAT}"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" * 100)
    assert message(path) == f"not an HDF5 file; {FORMAT}"
    path.write_bytes(b"")
    assert message(path) == f"not an HDF5 file; {FORMAT}"
    assert message(tmp_path) == f"no such file; {FORMAT}"
    with h5py.File(path, "w") as opened:
        opened["images"] = np.zeros(3)
    assert message(path) == "'/images' is of type float64; expected float32"


@pytest.mark.parametrize("part", [0.2, 0.6, 0.99])
def test_truncated(file: Path, part: float) -> None:
    os.truncate(file, int(file.stat().st_size * part))
    assert message(file).startswith("damaged HDF5 file (")


def test_header_of_100_terabytes(file: Path) -> None:
    """The HDF5 library would ask for that much memory, and the process might die of it."""
    content = bytearray(file.read_bytes())
    tree = content.index(b"TREE", 20_000)
    length = slice(tree - 8, tree)  # of the part of an object header that comes next
    assert int.from_bytes(content[length], "little") < 1000
    content[tree - 3] = 92
    file.write_bytes(content)
    assert message(file).startswith("damaged HDF5 file (")


@settings(deadline=None)  # each example starts a process
@given(st.data())
def test_damage_is_one_line(declared: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever bytes are changed: one line, never another error. (No change makes it whole: it holds no values.)"""
    content = bytearray(declared.read_bytes())
    places = st.integers(0, 8000) | st.integers(0, len(content) - 1)  # most structure is at the beginning
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=30)):
        content[place] = value
    path = tmp_path_factory.mktemp("damaged") / "weights.h5"
    path.write_bytes(content)
    message(path)


def test_nothing_is_written_for_a_bad_file(declared: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        convert_keras(declared, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_output_that_is_there(declared: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is not a run; choose another folder"):
        convert_keras(declared, tmp_path, overwrite=True)
    with pytest.raises(UserError, match="is a file; expected a folder for the run"):
        convert_keras(declared, tmp_path / "notes.txt", overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "run.json").write_text('{"kind": "train"}')
    with pytest.raises(UserError, match="holds a run of another kind"):
        convert_keras(declared, tmp_path, overwrite=True)
    (tmp_path / "run.json").write_text('{"kind": "convert-keras"}')
    with pytest.raises(UserError, match="exists; --overwrite replaces it"):
        convert_keras(declared, tmp_path)
    inside = tmp_path / "weights.h5"
    inside.write_bytes(declared.read_bytes())
    with pytest.raises(UserError, match="would be replaced; choose another folder"):
        convert_keras(inside, tmp_path, overwrite=True)
    assert inside.exists()

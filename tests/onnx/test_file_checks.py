"""ONNX files from anywhere, made here node by node: read, or refused in one line before an engine opens them."""

import itertools
import json
import os
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from cvrnet.errors import UserError
from cvrnet.inference import Predictor

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from cvrnet.onnx import load_onnx  # noqa: E402

without_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
ENGINES = ["onnxruntime", pytest.param("openvino", marks=without_openvino)]
CFG = {
    "architecture": "means",
    "num_classes": 2,
    "label_names": ["dark", "light"],
    "input_size": [3, 8, 8],
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
    "interpolation": "nearest",
}
WEIGHTS = np.array([[0, 0.01], [0, 0.01], [0, 0.01]], np.float32)
PIXELS, LOGITS = ("pixels", TensorProto.UINT8, ["N", 3, 8, 8]), ("logits", TensorProto.FLOAT, ["N", 2])
MEANS = [
    helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
    helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
]
PRODUCT = helper.make_node("MatMul", ["means", "weights"], ["logits"])


def tensor(values, name):
    return numpy_helper.from_array(np.asarray(values), name)


def external(values, name):
    """A tensor whose values would be read from another file."""
    made = tensor(values, name)
    made.ClearField("raw_data")
    made.data_location = TensorProto.EXTERNAL
    made.external_data.add(key="location", value="secrets.bin")
    return made


def constant(values, name):
    return helper.make_node("Constant", [], [name], value=values)


def model(nodes=(), weights=WEIGHTS, *, cfg=CFG, inputs=(PIXELS,), outputs=(LOGITS,), more=(), domains=()):
    """A network that answers with the means of the three channels times the weights."""
    constants = [tensor([2, 3], "axes"), *more]
    if weights is not None:
        constants.append(tensor(weights, "weights"))
    graph = helper.make_graph(
        list(nodes) or [*MEANS, PRODUCT],
        "graph",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        constants,
    )
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(domain, 1) for domain in domains)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    helper.set_model_props(proto, {"pretrained_cfg": cfg if isinstance(cfg, str) else json.dumps(cfg)})
    return proto


@pytest.fixture
def predict(tmp_path):
    """Save a model, and answer a dark and a bright image with it; the answer is two rows of probabilities."""
    for level in (0, 255):
        Image.fromarray(np.full((8, 8), level, np.uint8)).save(tmp_path / f"{level}.png")

    def predict(proto, engine="onnxruntime"):
        onnx.save(proto, tmp_path / "model.onnx")
        predictor = Predictor.from_pretrained(tmp_path / "model.onnx", "cpu", "fp32", backend=engine)
        return [p.probabilities for p in predictor([tmp_path / "0.png", tmp_path / "255.png"])]

    return predict


def refusal(predict, proto, engine="onnxruntime"):
    with pytest.raises(UserError) as error:
        predict(proto, engine)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_good_file_is_answered(predict, engine):
    p = 1 / (1 + np.exp(-255 * 0.03))
    np.testing.assert_allclose(predict(model(), engine), [[0.5, 0.5], [1 - p, p]], atol=1e-6)


def branch(values):
    return helper.make_graph([constant(values, "b")], "b", [], [helper.make_tensor_value_info("b", 1, [1])])


def loop():
    """One that runs 2^62 times."""
    step = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in ("go", "x")],
        "step",
        [helper.make_tensor_value_info(*v) for v in (("i", 7, []), ("go", 9, []), ("x", 1, None))],
        [helper.make_tensor_value_info(*v) for v in (("go_out", 9, []), ("x_out", 1, None))],
    )
    return helper.make_node("Loop", ["steps", "yes", "means"], ["looped"], body=step)


def chain(count):
    names = ["means", *(f"step{i}" for i in range(count))]
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in itertools.pairwise(names)]
    return model([*MEANS, *nodes, helper.make_node("MatMul", [names[-1], "weights"], ["logits"])])


def sparse(values):
    proto = model(weights=None)
    proto.graph.sparse_initializer.add(values=values, indices=tensor([0], "at"), dims=[3, 2])
    return proto


def function():
    body = [helper.make_node("Identity", ["a"], ["b"])]
    proto = model([*MEANS, helper.make_node("F", ["means"], ["m"], domain="my"), PRODUCT], domains=["my"])
    proto.functions.append(helper.make_function("my", "F", ["a"], ["b"], body, [helper.make_opsetid("", 18)]))
    return proto


yes = tensor(True, "yes")
HOSTILE = {
    "loop": (lambda: model([*MEANS, loop(), PRODUCT], more=[yes, tensor(2**62, "steps")]), "a loop or a branch"),
    "branch": (
        lambda: model(
            [
                *(*MEANS, PRODUCT),
                helper.make_node(
                    "If",
                    ["yes"],
                    ["c"],
                    then_branch=branch(external([1.0], "v")),
                    else_branch=branch(tensor([1.0], "v")),
                ),
            ],
            more=[yes],
        ),
        "a loop or a branch",
    ),
    "function": (function, "holds functions"),
    "nodes": (lambda: chain(100_000), "has a graph of 100,003 nodes"),
    "domain": (
        lambda: model(
            [*MEANS, helper.make_node("FusedMatMul", ["means", "weights"], ["logits"], domain="com.microsoft")],
            domains=["com.microsoft"],
        ),
        "has an operator of the domain 'com.microsoft'",
    ),
    "external": (lambda: model(weights=None, more=[external(WEIGHTS, "weights")]), "keeps its weights in other files"),
    "external constant": (
        lambda: model([*MEANS, constant(external(WEIGHTS, "v"), "weights"), PRODUCT], None),
        "keeps its weights in other files",
    ),
    "external sparse": (lambda: sparse(external([1.0], "weights")), "keeps its weights in other files"),
    "NaN": (lambda: model(weights=WEIGHTS * np.nan), "holds NaN or infinity in 'weights'"),
    "infinity": (lambda: model(weights=WEIGHTS + np.inf), "holds NaN or infinity in 'weights'"),
    "NaN in 16 bits": (
        lambda: model([*MEANS, helper.make_node("Cast", ["half"], ["weights"], to=1), PRODUCT], None,
                      more=[tensor(WEIGHTS.astype(np.float16) * np.nan, "half")]),
        "holds NaN or infinity in 'half'",
    ),
    "NaN constant": (
        lambda: model([*MEANS, constant(tensor(WEIGHTS * np.nan, "v"), "weights"), PRODUCT], None),
        "holds NaN or infinity in 'v'",
    ),
    "NaN attribute": (
        lambda: model([*MEANS, helper.make_node("Constant", [], ["c"], value_floats=[1.0, np.nan]), PRODUCT]),
        "holds NaN in 'value_floats'",
    ),
    "fixed batch": (lambda: model(inputs=[("pixels", TensorProto.UINT8, [1, 3, 8, 8])]), "do not fit its graph"),
    "floats": (lambda: model(inputs=[("pixels", TensorProto.FLOAT, ["N", 3, 8, 8])]), "do not fit its graph"),
    "two inputs": (lambda: model(inputs=[PIXELS, ("age", TensorProto.FLOAT, ["N"])]), "do not fit its graph"),
    "integers": (lambda: model(outputs=[("logits", TensorProto.INT64, ["N", 2])]), "do not fit its graph"),
    "heads of one axis": (
        lambda: model(
            [*MEANS, PRODUCT, helper.make_node("Identity", ["axes"], ["head_logits"])],
            outputs=[LOGITS, ("head_logits", TensorProto.FLOAT, [2])],
        ),
        "do not fit its graph",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_export_does_not_write_is_refused(predict, name):
    make, told = HOSTILE[name]
    line = refusal(predict, make())
    assert told in line
    assert line.endswith("; expected a file written by `cvrnet export`")


@pytest.mark.parametrize(
    ("cfg", "told"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[]", "its metadata are missing or wrong"),
        (json.dumps(CFG).replace("8, 8]", "8, Infinity]"), "holds Infinity"),
        (json.dumps(CFG)[:-1] + ', "mean": [1, 1, 1]}', "gives 'mean' twice"),
        ({**CFG, "interpolation": ["a"]}, "interpolation ['a'] is not known"),
        ({key: value for key, value in CFG.items() if key != "num_classes"}, "no 'num_classes'"),
        ({**CFG, "num_classes": 2.0}, "has a wrong type"),
        ({**CFG, "num_classes": 3}, "do not fit its graph"),
        ({**CFG, "label_names": ["a", "b", "c"]}, "do not fit its graph"),
        ({**CFG, "label_names": [1, 2]}, "expected a list of texts"),
        ({**CFG, "label_names": ["a", "a"]}, "several classes have the same name"),
        ({**CFG, "label_names": {"0": "a", "1": "b"}}, "has a wrong type"),
        ({**CFG, "mean": [0.0]}, "do not fit 3 channels"),
        ({**CFG, "std": [0.0] * 3}, "do not fit 3 channels"),
        ({**CFG, "input_size": [3, 8, 8.0]}, "is not possible"),
        ({**CFG, "input_size": [3, 10**9, 10**9]}, "is not possible"),
        ({**CFG, "input_size": [1, 8, 8], "mean": [0.0], "std": [1.0]}, "do not fit its graph"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 40 else "",
)
def test_metadata_of_another_kind_are_refused(predict, cfg, told):
    assert told in refusal(predict, model(cfg=cfg))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: model([helper.make_node("Nonsense", ["pixels"], ["logits"])]), "Nonsense"),
        (lambda: model(weights=np.ones((5, 2), np.float32)), "MatMul"),
        (lambda: model(weights=np.ones((3, 4), np.float32)), "for 2 images; expected a logit for each image"),
        (lambda: model([*MEANS, helper.make_node("ReduceSum", ["means"], ["logits"])]), "expected a logit for"),
        (
            lambda: model([*MEANS, helper.make_node("MatMul", ["means", "weights"], ["l"]),
                           helper.make_node("Neg", ["l"], ["n"]), helper.make_node("Sqrt", ["n"], ["logits"])],
                          np.ones((3, 2), np.float32)),
            "predicts NaN for every image, even for a uniformly grey image",
        ),
    ],
    ids=["unknown operator", "sizes", "classes", "scalar", "NaN in the answer"],
)  # fmt: skip
def test_what_an_engine_finds_is_one_sentence(predict, engine, make, told):
    line = refusal(predict, make(), engine)
    assert told in line
    assert "Exception from" not in line


def test_a_special_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(UserError, match="no such file"):
        load_onnx(tmp_path / "model.onnx")

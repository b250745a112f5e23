"""Train the network of the papers' Keras notebook in Keras 3 and in cvrnet, and compare the losses.

    python benchmarks/keras_parity.py --keras-python KERAS_VENV/bin/python

Both trainings start from the same weights and use the same batches. The training in Keras needs ``pip install
tensorflow-cpu keras h5py`` and runs in the interpreter given by ``--keras-python`` (default: this one). The training in
cvrnet needs ``pip install 'cvrnet[keras]'``. The Keras network consists of ResNet50 and Xception from
keras.applications. Only ResNet's batch-norm epsilon is changed: it is 1.001e-5 today, and was 1e-3 in
keras-applications 1.0.8, which the notebook used.

Both programs train in float32 and in float64. In float64, rounding is negligible, so any remaining difference comes
from the method. cvrnet trains twice in each format: in PyTorch's way, and in Keras's way, where the three known
differences of method are removed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

LEARNING_RATE, EPSILON = 1e-4, 1e-7
TOLERANCE = {"float32": 5e-2, "float64": 1e-9}
"""Largest accepted relative difference of a step's loss, if cvrnet trains in Keras's way. In float32, rounding alone
causes the difference: see the last line of the output."""

BRANCH = {"0": "branch1", "1": "branch2a", "2": "branch2b", "3": "branch2c"}


def make_batches(steps: int, batch_size: int, size: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images (steps, N, H, W, 3) of integers 0..255 with a class-dependent patch, and labels (steps, N)."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (steps, batch_size, size // 8, size // 8, 3)).repeat(8, 2).repeat(8, 3)
    labels = rng.integers(0, classes, (steps, batch_size))
    for s, n in np.ndindex(labels.shape):
        start = 16 * labels[s, n]
        images[s, n, start : start + 16, start : start + 16] = 255
    return images.astype("float32"), labels


def build_keras(size: int, classes: int) -> Any:
    """Build the notebook's network in Keras; the attribute ``notebook`` maps the notebook's layer names to layers."""
    import keras

    image = keras.Input((size, size, 3))
    resnet = keras.applications.ResNet50(include_top=False, weights=None, input_tensor=image)
    xception = keras.applications.Xception(include_top=False, weights=None, input_tensor=image)
    names = {}
    for layer in resnet.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.epsilon = 1e-3
        kind = {"conv": "res", "bn": "bn"}.get(layer.name.rsplit("_", 1)[-1])
        if layer.name in ("conv1_conv", "conv1_bn"):
            names["res_conv1" if kind == "res" else "res_bn_conv1"] = layer
        elif kind and layer.weights:
            stage, block, branch, _ = layer.name.split("_")
            names[f"res_{kind}{stage[4:]}{'abcdef'[int(block[5:]) - 1]}_{BRANCH[branch]}"] = layer
    numbered = {"conv2d": 0, "batch_normalization": 0}
    for layer in xception.layers:
        kind = layer.name.rstrip("0123456789").rstrip("_")
        if kind in numbered:
            numbered[kind] += 1
            names[f"xce_{kind}_{numbered[kind]}"] = layer
        elif layer.weights:
            names[f"xce_{layer.name}"] = layer

    def tap(model: Any, name: str) -> Any:
        return model.get_layer(name).output

    e15, e25 = tap(resnet, "conv5_block3_out"), tap(xception, "block14_sepconv2_act")
    maps = [
        keras.layers.Concatenate()([e15, e25]),
        tap(resnet, "conv4_block6_out"),
        tap(resnet, "conv3_block4_out"),
        tap(xception, "block4_sepconv2_bn"),
        tap(xception, "block13_sepconv2_bn"),
    ]
    answers = []
    for i, x in enumerate(maps, 1):
        x = keras.layers.GlobalAveragePooling2D()(x)
        head = ((f"dense_{3 * i - 2}", 512), (f"dense_{3 * i - 1}", 128), (f"MKH_{i}", 64), (f"dense_{3 * i}", classes))
        for name, width in head:
            layer = keras.layers.Dense(width, activation="softmax" if name == head[-1][0] else "relu", name=name)
            x, names[name] = layer(x), layer
        answers.append(x)
    model = keras.Model(image, keras.layers.Average()(answers))
    model.notebook = names
    return model


def run_keras(folder: Path, args: argparse.Namespace) -> None:
    """Train in Keras; write start.h5 (the initial weights, in the notebook's layout) and <dtype>.npz."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import h5py
    import keras

    images, labels = make_batches(args.steps, args.batch_size, args.size, args.classes)
    for dtype in ("float32", "float64"):
        keras.backend.clear_session()
        keras.config.set_floatx(dtype)
        keras.utils.set_random_seed(0)
        model = build_keras(args.size, args.classes)
        source = args.weights or folder / "start.h5"
        if not source.exists():
            write_weights(source, model)
        with h5py.File(source) as file:
            for name, layer in model.notebook.items():
                layer.set_weights([file[name][path][()] for path in file[name].attrs["weight_names"]])
        before = model.predict(images[0], verbose=0)
        adam = keras.optimizers.Adam(LEARNING_RATE, epsilon=EPSILON)
        model.compile(adam, "categorical_crossentropy", jit_compile=False)
        losses = []
        for x, y in zip(images, np.eye(args.classes, dtype=dtype)[labels], strict=True):
            model.reset_metrics()
            losses.append(float(np.asarray(model.train_on_batch(x, y)).ravel()[0]))
        after = model.predict(images[0], verbose=0)
        np.savez(folder / f"{dtype}.npz", losses=losses, before=before, after=after, version=keras.__version__)


def write_weights(path: Path, model: Any) -> None:
    """Save the weights in float32, in the layout of Keras 2's ``save_weights``, with the notebook's names."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.asarray([name.encode() for name in model.notebook])
        file.attrs["backend"] = b"tensorflow"
        for name, layer in model.notebook.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = np.asarray([f"{name}/{w.name}:0".encode() for w in layer.weights])
            for weight in layer.weights:
                group.create_dataset(f"{name}/{weight.name}:0", data=np.asarray(weight, dtype="float32"))


def adam_as_in_keras(step: int) -> dict[str, float]:
    """Return settings with which torch's Adam makes the same step as Keras's Adam.

    Keras adds epsilon to the root of the running mean of squares before the bias correction, torch after it. Keras also
    uses float32 betas in the correction, even in float64 training (it converts a Python number to a float32 tensor).
    """
    b1, b2 = np.float64(np.float32(0.9)), np.float64(np.float32(0.999))
    theirs = np.sqrt(1 - b2**step) / (1 - b1**step)
    ours = np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    return {"lr": LEARNING_RATE * theirs / ours, "eps": EPSILON / np.sqrt(1 - 0.999**step)}


def variance_as_in_keras_3(norm: Any, inputs: tuple[Any, ...], _: Any) -> None:
    """Correct the running variance after a batch norm's forward pass: Keras 3 divides by n, torch by n - 1.

    (Keras 2 multiplied the variance by n / (n - 1 - epsilon), which equals torch's value to within epsilon / n.)
    """
    if norm.training:
        x = inputs[0].detach()
        excess = norm.momentum * x.var((0, 2, 3)) / (x.numel() // x.shape[1])
        norm.running_var = norm.running_var - excess  # a new tensor, because autograd still needs the old one


def run_torch(weights: Path, dtype: str, args: argparse.Namespace, as_in_keras: bool) -> dict[str, np.ndarray]:
    """Train in cvrnet, in PyTorch's way or in Keras's way."""
    import torch
    import torch.nn.functional as F

    from cvrnet.keras import load_keras

    images, labels = make_batches(args.steps, args.batch_size, args.size, args.classes)
    model = load_keras(weights).to(getattr(torch, dtype))
    batches = torch.from_numpy(images).to(getattr(torch, dtype)).permute(0, 1, 4, 2, 3)
    if as_in_keras:
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.register_forward_hook(variance_as_in_keras_3)

    def predict() -> np.ndarray:
        with torch.no_grad():
            return model.eval()(batches[0]).softmax(-1).numpy()

    before = predict()
    adam = torch.optim.Adam(model.train().parameters(), lr=LEARNING_RATE, eps=EPSILON)
    losses = []
    for step, (x, y) in enumerate(zip(batches, torch.from_numpy(labels), strict=True), 1):
        if as_in_keras:
            adam.param_groups[0].update(adam_as_in_keras(step))
        loss = F.cross_entropy(model(x), y)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return {"losses": np.array(losses), "before": before, "after": predict()}


def report(folder: Path, weights: Path, args: argparse.Namespace) -> bool:
    """Print the comparison; return whether all losses agree within the tolerance."""
    from importlib.metadata import version

    theirs = {dtype: np.load(folder / f"{dtype}.npz") for dtype in ("float32", "float64")}
    columns = [(dtype, as_in_keras) for dtype in theirs for as_in_keras in (False, True)]
    ours = {column: run_torch(weights, column[0], args, column[1]) for column in columns}
    print(f"Keras {theirs['float32']['version']}, torch {version('torch')}, {args.classes} classes")
    print(f"Batch {args.batch_size}, {args.size}x{args.size} pixels, Adam {LEARNING_RATE:g}, epsilon {EPSILON:g}\n")

    def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.abs(a / b - 1)

    errors = {column: difference(ours[column]["losses"], theirs[column[0]]["losses"]) for column in columns}
    print("| | Keras | float32 | float32, Keras's way | float64 | float64, Keras's way |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for step, loss in enumerate(theirs["float64"]["losses"]):
        print(f"| loss, step {step + 1} | {loss:.6f} | " + " | ".join(f"{errors[c][step]:.1e}" for c in columns) + " |")
    for when in ("before", "after"):
        found = (np.abs(ours[column][when] - theirs[column[0]][when]).max() for column in columns)
        print(f"| probabilities in inference, {when} | | " + " | ".join(f"{error:.1e}" for error in found) + " |")
    agree = all(errors[dtype, True].max() <= tolerance for dtype, tolerance in TOLERANCE.items())
    print(f"\nIn Keras's way, losses agree within {TOLERANCE['float32']:g} in float32 and {TOLERANCE['float64']:g} "
          f"in float64: {agree}")  # fmt: skip
    rounding = {
        "Keras": difference(theirs["float32"]["losses"], theirs["float64"]["losses"]).max(),
        "cvrnet": difference(ours["float32", True]["losses"], ours["float64", True]["losses"]).max(),
    }
    largest = ", ".join(f"{side} {error:.1e}" for side, error in rounding.items())
    print(f"Rounding alone (largest difference between float32 and float64 of the same side): {largest}")
    return agree


def main() -> None:
    """Train in Keras and in cvrnet; end with exit status 1 if the losses do not agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keras-python", default=sys.executable, help="interpreter that has TensorFlow and Keras 3")
    parser.add_argument("--weights", type=Path, help="start from this checkpoint instead of random weights")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--keras-half", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.keras_half:
        run_keras(args.keras_half, args)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([args.keras_python, __file__, "--keras-half", name, *sys.argv[1:]], check=True)
        if not report(folder, args.weights or folder / "start.h5", args):
            sys.exit(1)


if __name__ == "__main__":
    main()

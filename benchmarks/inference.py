"""Compare the speed of `Predictor` with plain PyTorch and Keras, in one run.

    python benchmarks/inference.py [--model cvrnet] [--img-size 224] [--device cpu|cuda] [--rounds 5] [--no-compile]
    python benchmarks/inference.py --checkpoint RUN         a trained network, with the float32 parts of `cvrnet tune`

The rows of the table:

- (a) plain PyTorch: float32, contiguous, eager, batch 8, in inference mode;
- (b) the same network in Keras on TensorFlow, with `model.predict` and `tf.function` (extra ``bench``; skipped with a
  message if it is not installed);
- `cvrnet.Predictor` with its defaults, and with one setting changed per row;
- `cvrnet.Predictor` with another backend. The script also measures how long the backend converts and opens the model;
  the last lines give the number of images after which the backend has saved this time;
- the ONNX rows of inference_onnx.py;
- the floor, the least possible time: the number of operations, divided by the rate at which this machine multiplies
  float32 matrices.

All rows take uint8 pixels. Without a checkpoint, the weights are random, which does not change the time. The rows run
in turn, so that a change of the machine's speed affects all of them, and the table gives medians. The last line
compares decoding alone, the network alone, and both together.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

import cvrnet
from cvrnet.data import Preprocessing, read_image, write_phantoms
from cvrnet.devices import has_bf16
from cvrnet.inference import Predictor
from cvrnet.runs.checkpoint import load_checkpoint, save_checkpoint
from cvrnet.runs.layout import CONFIG
from cvrnet.runs.model_config import read_config

PLAIN = "(a) PyTorch, plain"
Row = tuple[int, Callable[[torch.Tensor], object]]
"""A row: the batch size, and the function to time."""


def our_rows(folder: Path, device: str, compile_too: bool) -> dict[str, Row]:
    """Return rows for `Predictor` with its defaults and with other settings."""
    default = Predictor.from_pretrained(folder, device)
    rows: dict[str, Row] = {
        f"Predictor, default ({default.precision})": (8, default.probabilities),
        f"Predictor, default ({default.precision}), batch 1": (1, default.probabilities),
    }
    if default.precision != "fp32":
        rows["Predictor, fp32"] = (8, Predictor.from_pretrained(folder, device, "fp32").probabilities)
    bf16 = has_bf16(default.device)
    if not bf16:
        print("this device has no bf16 instructions: these rows are skipped")
    modes: list[bool | str] = [True, "reduce-overhead"] if device.startswith("cuda") else [True]
    for mode in modes if compile_too else []:
        for dtype in ("fp32", *(("bf16",) if bf16 else ())):
            name = f"Predictor, compile={mode}, {dtype}"
            rows[name] = (8, Predictor.from_pretrained(folder, device, dtype, compile=mode).probabilities)
    return rows


def backend_rows(folder: Path, seconds: dict[str, tuple[float, float]]) -> dict[str, Row]:
    """Return rows for the installed backends; write the seconds of conversion and of opening again to ``seconds``."""
    rows: dict[str, Row] = {}
    for backend in ("openvino", "onnxruntime"):
        if not (find_spec(backend) and find_spec("onnxscript")):
            continue
        times = []
        for _ in range(2):
            start = time.perf_counter()
            predictor = Predictor.from_pretrained(folder, "cpu", backend=backend)
            times.append(time.perf_counter() - start)
        name = f"Predictor, backend={backend} ({predictor.precision})"
        seconds[name] = (times[0], times[1])
        rows[name] = (8, predictor.probabilities)
        rows[f"{name}, batch 1"] = (1, predictor.probabilities)
    return rows


def plain_row(folder: Path, device: str) -> Row:
    """Return the row for plain PyTorch, as a user would write it."""
    model = load_checkpoint(folder).to(device)
    preprocessing = Preprocessing.from_model(model)

    def run(pixels: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return model(preprocessing.normalize(pixels.to(device))).softmax(-1).cpu()

    return 8, run


def keras_rows(size: int) -> dict[str, Row]:
    """Return rows for the same network in Keras on TensorFlow; no rows if these are not installed."""
    if not (find_spec("tensorflow") and find_spec("keras")):
        print('Keras on TensorFlow is not installed (pip install "cvrnet[bench]"): these rows are skipped')
        return {}
    import tensorflow as tf
    from keras_parity import build_keras

    model = build_keras(size, 3)
    graph = tf.function(lambda x: model(x, training=False))

    def pixels_last(pixels: torch.Tensor) -> object:
        return pixels.permute(0, 2, 3, 1).contiguous().numpy().astype("float32") / 255

    return {
        "(b) Keras, model.predict": (8, lambda pixels: model.predict(pixels_last(pixels), verbose=0)),
        "(b) Keras, tf.function": (8, lambda pixels: graph(tf.constant(pixels_last(pixels))).numpy()),
    }


def onnx_rows(args: argparse.Namespace, folder: Path) -> dict[str, Row]:
    """Return rows for the files of ``cvrnet export``, with each installed engine."""
    if not find_spec("onnxruntime"):
        print('ONNX Runtime is not installed (pip install "cvrnet[export]"): these rows are skipped')
        return {}
    import inference_onnx

    options = argparse.Namespace(model=args.model, img_size=args.img_size, batch_size=8, rounds=args.rounds)
    networks = inference_onnx.networks(options, folder)
    networks.pop(inference_onnx.PLAIN)
    return {name: (8, network) for name, network in networks.items()}


def measure(rows: dict[str, Row], size: int, rounds: int) -> dict[str, float]:
    """Return the median milliseconds per image of each row."""
    times: dict[str, list[float]] = {name: [] for name in rows}
    for i in range(rounds + 1):
        for name, (count, run) in rows.items():
            pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
            start = time.perf_counter()
            run(pixels)
            if i:  # the first round compiles and warms up
                times[name].append((time.perf_counter() - start) / count * 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def floor(folder: Path, size: int, device: str) -> tuple[float, float]:
    """Return the operations per image (2 per multiply-add) and the operations per second on 2048 x 2048 matrices."""
    model = load_checkpoint(folder)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, size, size))
    a = torch.randn(2048, 2048, device=device)
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        float((a @ a)[0, 0])  # reading a value waits for the GPU
        seconds.append(time.perf_counter() - start)
    return counter.get_total_flops(), 2 * 2048**3 / min(seconds)


def overlap(folder: Path, device: str, count: int) -> None:
    """Print the time of decoding alone, the network alone, and both together (ideally the time of the slower one)."""
    predictor = Predictor.from_pretrained(folder, device)
    with tempfile.TemporaryDirectory() as images:
        write_phantoms(Path(images) / "phantoms", count, size=1024)
        paths = sorted(Path(images).glob("phantoms/images/**/*.png"))
        predictor(paths[:8])
        start = time.perf_counter()
        decoded = [predictor.preprocessing.resize(read_image(p, predictor.preprocessing.mode)) for p in paths]
        decoding = time.perf_counter() - start
        batches = torch.stack([torch.from_numpy(image.transpose(2, 0, 1).copy()) for image in decoded]).split(8)
        start = time.perf_counter()
        for batch in batches:
            predictor.probabilities(batch)
        network = time.perf_counter() - start
        start = time.perf_counter()
        predictor(paths)
        together = time.perf_counter() - start
    each = [1000 * seconds / len(paths) for seconds in (decoding, network, together)]
    print(
        f"decoding 1024 px on one core {each[0]:.1f} ms/image, network {each[1]:.1f}, both together {each[2]:.1f}: "
        f"{each[2] / max(each[:2]):.2f}x the slower one, {each[2] / sum(each[:2]):.2f}x their sum"
    )


def main() -> None:
    """Measure all rows, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cvrnet")
    parser.add_argument("--checkpoint", type=Path, help="a folder with config.json and model.safetensors")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--no-onnx", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.checkpoint or Path(temporary) / "model"
        if args.checkpoint is None:
            model = cvrnet.create_model(args.model, num_classes=3)
            model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, args.img_size, args.img_size)}
            save_checkpoint(model, folder, ["CVP", "NCP", "NOR"])
        else:
            config = read_config(folder / CONFIG)
            args.model, args.img_size = config["architecture"], config["pretrained_cfg"]["input_size"][-1]
        rows = {PLAIN: plain_row(folder, args.device)}
        on_cpu = args.device == "cpu"
        rows |= keras_rows(args.img_size) if on_cpu and args.model == "cvrnet" else {}
        rows |= our_rows(folder, args.device, not args.no_compile)
        default = next(name for name in rows if name.startswith("Predictor, default"))
        seconds: dict[str, tuple[float, float]] = {}
        os.environ["CVRNET_CACHE"] = temporary  # each backend converts the model once
        rows |= backend_rows(folder, seconds) if on_cpu and not args.no_onnx else {}
        rows |= onnx_rows(args, Path(temporary)) if on_cpu and not args.no_onnx else {}
        ms = measure(rows, args.img_size, args.rounds)
        operations, rate = floor(folder, args.img_size, args.device)
        print(f"\n{args.model}, {args.img_size} px, {args.device}, {torch.get_num_threads()} threads")
        print(f"{'':44}{'batch':>6}{'ms/image':>10}{'speed':>8}")
        for name, value in ms.items():
            print(f"{name:44}{rows[name][0]:6}{value:10.1f}{ms[PLAIN] / value:7.2f}x")
        print(
            f"{'floor in float32':44}{'':6}{1000 * operations / rate:10.1f}{ms[PLAIN] * rate / operations / 1000:7.2f}x"
            f"   ({operations / 1e9:.2f} GFLOP per image, {rate / 1e9:.0f} GFLOP/s)"
        )
        for name, (first, later) in seconds.items():
            saved = (ms[default] - ms[name]) / 1000
            images = [
                f"{t:.1f} s, paid back after {t / saved:.0f} images" if saved > 0 else f"{t:.1f} s"
                for t in (first, later)
            ]
            print(f"{name}: converted and opened in {images[0]}; opened again in {images[1]}")
        overlap(folder, args.device, 24)


if __name__ == "__main__":
    main()

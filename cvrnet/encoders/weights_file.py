"""Read an encoder's weights from a file, and fit them to a timm model by the names of their tensors."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub.utils.sha import sha_fileobj
from safetensors import SafetensorError
from torch import Tensor, nn

from cvrnet.encoders.network_size import INITIAL_VALUES, SkipOnMeta
from cvrnet.errors import UserError

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")
_SHOWN = 3  # a message names at most this many missing tensors


@dataclass(frozen=True)
class WeightsFile:
    """The tensors that a file has for a timm model, under the names that they have in the model."""

    path: Path
    architecture: str  #: the timm model
    state: dict[str, Tensor]  #: every tensor of the model without its classifier; zeros for tensors that the file lacks
    found: frozenset[str]  #: the names of the tensors that the file has, with each ``.`` replaced by ``_``

    @property
    def origin(self) -> str:
        """The file's name and SHA-256."""
        return f"{self.path.name} (file, SHA-256 {_sha256(self.path)})"

    def check(self, network: nn.Module) -> None:
        """Raise UserError if the file lacks tensors that the network uses.

        The network is timm's model or a feature extractor that timm made from it. A feature extractor may change
        the names of the tensors: it writes ``_`` for some dots, or puts ``model.`` before the names.
        """
        used = [name.removeprefix("model.") for name in network.state_dict()]
        used = [name for name in used if not name.endswith("num_batches_tracked")]
        if missing := [name for name in used if name.replace(".", "_") not in self.found]:
            first = ", ".join(missing[:_SHOWN]) + ", …" * (len(missing) > _SHOWN)
            raise UserError(
                f"{self.path} does not fit {self.architecture}: {len(used) - len(missing)} of {len(used)} tensors "
                f"match by their names; missing: {first}"
            )


def read_weights_file(path: str | Path, architecture: str, **options: Any) -> WeightsFile:
    """Read a file of weights for a timm model; ``options`` are the arguments of this model.

    The file is a state dict or a training checkpoint (timm's containers ``state_dict``, ``model``, ``model_ema``), as
    safetensors or from ``torch.save``; only weights are unpickled, so no code runs. A common prefix of the names, such
    as ``module.`` or ``encoder.``, is removed. The classifier is ignored, and so are tensors that the model does not
    have.

    Raises:
        UserError: The file cannot be read.
    """
    path = Path(path)
    stored = _read(path)
    model = _without_memory(architecture, **options)
    classifiers = model.pretrained_cfg.get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else classifiers
    expected = {n: tensor for n, tensor in model.state_dict().items() if n.rpartition(".")[0] not in classifiers}
    prefix = _prefix(stored, expected)
    found = {name: stored[prefix + name] for name in expected if prefix + name in stored}
    # timm's converters recognise timm's own checkpoints by names of tensors. An encoder's file may lack these, so every
    # missing tensor is added as zeros.
    others = {n: torch.zeros(t.shape, dtype=t.dtype) for n, t in expected.items() if n not in found}
    return WeightsFile(path, architecture, {**found, **others}, frozenset(n.replace(".", "_") for n in found))


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"no file {path}; expected the weights of an encoder ({', '.join(_SUFFIXES)})")
    try:
        content: Any = timm.models.load_state_dict(str(path))
        stored = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    except (SafetensorError, pickle.UnpicklingError, EOFError, OSError, RuntimeError, ValueError, LookupError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise UserError(f"{path} cannot be read: {reason} (only weights are read, without running code)") from error
    except (AttributeError, TypeError) as error:
        raise UserError(f"{path} has no tensors with names; expected a state dict") from error
    return stored


def _without_memory(architecture: str, **options: Any) -> Any:
    """Return the timm model on the meta device, or with random weights if it cannot be made there."""
    try:
        with SkipOnMeta(INITIAL_VALUES), torch.device("meta"):
            return timm.create_model(architecture, **options)
    except RuntimeError:
        return timm.create_model(architecture, **options)


def _prefix(stored: Iterable[str], expected: Collection[str]) -> str:
    """Return the prefix that stands most often before an expected name in a file; "" if no name is found.

    >>> _prefix(["module.encoder.a.w", "module.encoder.b.w", "module.head.w"], ["a.w", "b.w"])
    'module.encoder.'
    """
    counts = Counter[str]({"": 0})
    for name in stored:
        starts = [0, *(i + 1 for i, character in enumerate(name) if character == ".")]
        counts.update(name[:start] for start in starts if name[start:] in expected)
    return counts.most_common(1)[0][0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return sha_fileobj(file).hex()

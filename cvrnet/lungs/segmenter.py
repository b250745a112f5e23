"""A small network that finds the lungs in a frontal chest radiograph (extra ``lungs``).

The network is the U-Net of segmentation_models_pytorch (Ronneberger et al. 2015) on EfficientNet-Lite0, whose ImageNet
weights come with the extra ``lite``. The decoder has fewer channels than the default; the encoder is timm's.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cvrnet.data.lung_masks import enlarge_mask, two_lobes
from cvrnet.encoders.packaged_weights import load_package
from cvrnet.errors import UserError
from cvrnet.files import atomic_write
from cvrnet.runs.layout import SEGMENTER

ENCODER = "tf_efficientnet_lite0"
DECODER = (64, 48, 32, 16, 8)  #: channels of the decoder's five stages, the deepest first
SIZES = range(64, 513, 32)  #: possible sides, in pixels, of a network's square input
FORMAT = 1
_MEAN, _STD = 0.45, 0.225  # about the mean and standard deviation of ImageNet, for grey
_MOST_BYTES = 100_000_000  # the largest size of a segmenter's file, which may be untrusted


class Segmenter:
    """Finds the lungs in a picture. It runs on the CPU in float32, so the same picture always has the same mask.

    Args:
        network: A network of `create_network`.
        size: Side, in pixels, of the network's square input.
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        network = network.float().eval().cpu()
        self.network, self.size = network.to(memory_format=torch.channels_last), size
        self._digest = ""

    @property
    def digest(self) -> str:
        """A hash of the segmenter's file (`to_bytes`), which identifies the network and its weights."""
        if not self._digest:
            self._digest = hashlib.sha256(self.to_bytes()).hexdigest()[:16]
        return self._digest

    def probabilities(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the probability of lung on the network's grid, (size, size), scaled to 0 to 255.

        The lungs are the two largest connected regions of values above 127, with their holes filled (`two_lobes`). In
        the result, lower values inside the lungs are raised to 128, and higher values outside are lowered to 127. The
        picture is grey (H, W) or RGB (H, W, 3).
        """
        x = prepare(torch.from_numpy(square(picture, self.size))[None, None])
        with torch.inference_mode():
            found = self.network(x.contiguous(memory_format=torch.channels_last)).sigmoid()[0, 0].numpy()
        grid = np.rint(255 * found).astype(np.uint8)
        return np.where(two_lobes(grid > 127), np.maximum(grid, 128), np.minimum(grid, 127)).astype(np.uint8)

    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return the mask of the lungs, bool (H, W), of a picture (H, W) or (H, W, 3)."""
        return enlarge_mask(self.probabilities(picture), picture.shape)

    def to_bytes(self) -> bytes:
        """Return the content of the file that `save` writes: weights in 16 bits, and a description of the network."""
        about = {"format": FORMAT, "encoder": ENCODER, "decoder": list(DECODER), "size": self.size}
        tensors = {
            name: (value.half() if value.is_floating_point() else value).contiguous()
            for name, value in self.network.state_dict().items()
        }
        return save(tensors, {"lungs": json.dumps(about)})

    def save(self, path: Path) -> None:
        """Write the segmenter to a file, atomically."""
        content = self.to_bytes()
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)

    @classmethod
    def load(cls, path: str | Path) -> Segmenter:
        """Read a segmenter from a file that `save` wrote, or from a folder of `cvrnet lungs` or of a trained model.

        Raises:
            UserError: The file is missing, is damaged, or belongs to another network.
        """
        path = Path(path)
        path = path / SEGMENTER if path.is_dir() else path
        if not path.is_file():
            raise UserError(
                f"{path}: no such segmenter; expected a folder that `cvrnet lungs` wrote, or its {SEGMENTER}"
            )
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise ValueError("it is too large")
            with safe_open(path, "pt") as file:
                size = _size(json.loads((file.metadata() or {}).get("lungs", "null")))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # the file is not a dictionary
            network = create_network(pretrained=False)
            network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
            if not all(t.isfinite().all() for t in network.state_dict().values()):
                raise ValueError("it holds NaN or infinity")
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} cannot be used: {str(error).strip().splitlines()[0]}") from error
        return cls(network, size)


def _size(about: Any) -> int:
    """Return the size that a file's description states; raise ValueError if it describes another network."""
    wanted = {"format": FORMAT, "encoder": ENCODER, "decoder": list(DECODER)}
    if not isinstance(about, dict) or {key: about.get(key) for key in wanted} != wanted:
        raise ValueError(
            f"this version of cvrnet cannot read it; make it again with `cvrnet lungs` (expected {wanted})"
        )
    if about.get("size") not in SIZES or isinstance(about["size"], bool):
        raise ValueError(
            f"the input size of its network is {about.get('size')!r:.20}; expected a multiple of 32 from 64 to 512"
        )
    return int(about["size"])


def create_network(pretrained: bool = True) -> Any:
    """Return the U-Net: it takes three equal grey channels, and gives one logit for each pixel.

    With ``pretrained``, the encoder has ImageNet weights if the extra ``lite`` is installed, otherwise random weights.
    """
    network: Any = smp.Unet(f"tu-{ENCODER}", encoder_weights=None, decoder_channels=DECODER, classes=1)
    state = load_package(ENCODER) if pretrained else None
    if state is not None:
        own = network.encoder.model.state_dict()
        network.encoder.model.load_state_dict({name: state[name] for name in own})
    return network


def square(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize a picture (H, W) or (H, W, 3) to grey (size, size); its 1st and 99th percentiles become 0 and 255."""
    image = Image.fromarray(picture).convert("L").resize((size, size), Image.Resampling.BILINEAR)
    grey = np.asarray(image, np.float32)
    low, high = np.percentile(grey, (1, 99))
    return np.clip((grey - low) * (255 / max(high - low, 1)), 0, 255).astype(np.uint8)


def prepare(grey: Tensor) -> Tensor:
    """Return the network's input (N, 3, H, W) for grey pictures (N, 1, H, W) in 0..255."""
    return ((grey.float() / 255 - _MEAN) / _STD).expand(-1, 3, -1, -1)

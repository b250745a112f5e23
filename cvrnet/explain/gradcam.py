"""Compute Grad-CAM (Selvaraju et al. 2017) without hooks, for the whole network, each encoder and each head.

The second paper shows such maps in Fig. 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvrnet.errors import UserError

NETWORK = "network"
NO_GRADIENTS = "this model has no gradients (an ONNX file?); expected the trained model, not an exported file"
FLAT = 1e-3  # a map that varies by less than this share of its maximum shows nothing


def map_parts(model: nn.Module) -> dict[str, list[int]]:
    """Return the parts of a model that can be explained, each with the indices of its feature maps.

    Returns:
        Part -> indices into the result of `class_evidence`. The part ``"network"`` has every map that any head uses. In
        a CVR-Net, each encoder is also a part, with its deepest map. Each head (``"P1"`` and so on) is a part with the
        maps that it uses.

    Raises:
        UserError: The model is not a PyTorch module; for example, it is an ONNX file.
    """
    if not isinstance(model, nn.Module):
        raise UserError(NO_GRADIENTS)
    if not _is_cvrnet(model):
        return {NETWORK: [0]}
    cvrnet: Any = model
    parts = {NETWORK: sorted(i for group in cvrnet.groups for i in group)}
    ends = accumulate(len(encoder.channels) for encoder in cvrnet.encoders)
    for number, (name, end) in enumerate(zip(cvrnet.encoder_names, ends, strict=True), start=1):
        parts[name if name not in parts else f"{name} ({number})"] = [end - 1]
    return parts | {f"P{k}": list(group) for k, group in enumerate(cvrnet.groups, start=1)}


def class_evidence(model: nn.Module, x: Tensor, target: Tensor) -> list[Tensor]:
    r"""Return the evidence for a class in each cell of each feature map: Grad-CAM before the ReLU.

    .. math:: L_{hw} = HW \sum_k \alpha_k A_{khw},
              \qquad \alpha_k = \frac{1}{HW} \sum_{hw} \frac{\partial y}{\partial A_{khw}}

    y is the score of the class: the mean of the heads' raw scores. The logarithm of the mean probability is not used,
    because its gradient vanishes where the heads are confident. The factor HW makes maps of different grids comparable:
    to first order, the mean of L is the contribution of the whole map to y. The gradient with respect to a map goes
    only through the head that uses the map, not through the deeper maps that are computed from it.

    Only the maps get a gradient, not the parameters. The encoders run under the caller's autocast. The heads run in the
    number format of the parameters, because these gradients are too small for 16 bits.

    Args:
        model: A CVR-Net, or any timm model whose ``forward_features`` returns one tensor (N, C, H, W) or (N, H, W, C).
        x: Images (N, C, H, W), normalised as the model expects; or one image for all targets, which passes through the
            encoders only once.
        target: Class indices (N,).

    Returns:
        A list with the evidence in each feature map, float32 (N, H, W); zero for maps that no head uses. `map_parts`
        returns indices into this list.

    Raises:
        UserError: The model has no feature maps, or no classifier.
    """
    with torch.inference_mode(False):  # the caller may be in inference mode, where tensors cannot have gradients
        with torch.no_grad():
            dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
            maps = [m.detach().to(dtype).expand(len(target), -1, -1, -1) for m in _feature_maps(model, x)]
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            for m in maps:
                m.requires_grad_()
            # An image's score depends on its own maps alone, so one backward pass gives the gradients of all images.
            score = _raw_scores(model, maps).gather(1, target.to(x.device)[:, None]).sum()
            gradients = torch.autograd.grad(score, maps, materialize_grads=True)  # zero for maps that no head uses
        weights = [g.float().mean((2, 3), keepdim=True) for g in gradients]
        return [(w * m.float()).sum(1).detach() * m[0, 0].numel() for w, m in zip(weights, maps, strict=True)]


def combine(evidence: Sequence[Tensor]) -> Tensor:
    """Sum the evidence of several maps to one non-negative map (N, h, w), on the finest of their grids.

    Summing before the ReLU gives Grad-CAM of one layer that has the channels of all maps: evidence for the class in one
    map and evidence against the class in another map cancel out.
    """
    height, width = max((tuple(e.shape[1:]) for e in evidence), key=lambda shape: shape[0] * shape[1])
    same = [F.interpolate(e[:, None], (height, width), mode="bilinear", align_corners=False) for e in evidence]
    return torch.stack(same).sum(0)[:, 0].relu()


def grad_cam(models: Sequence[nn.Module], x: Tensor, target: Tensor, parts: Sequence[str]) -> dict[str, Tensor]:
    """Return the maps of some parts, averaged over the models; each model counts equally.

    ``x`` and ``target`` are as in `class_evidence`; the parts are keys of `map_parts`.

    Returns:
        For each part, maps (N, h, w), float32 in 0..1, on the part's finest grid. The maximum of each map is 1,
        with two exceptions: a map is zero everywhere if no model found evidence for the class, and NaN everywhere if
        the map of any model is not finite. `refusal` finds the maps that show nothing.
    """
    cams: dict[str, list[Tensor]] = {name: [] for name in parts}
    for model in models:
        evidence, numbers = class_evidence(model, x, target), map_parts(model)
        for name in parts:
            cams[name].append(_scale(combine([evidence[i] for i in numbers[name]])))
    return {name: _scale(torch.stack(each).sum(0)) for name, each in cams.items()}


def refusal(cam: Tensor, target: str) -> str:
    """Return the reason why a map (h, w) of `grad_cam` cannot be shown; "" if it shows evidence.

    >>> refusal(torch.zeros(7, 7), "CVP")
    'the map is zero everywhere: no evidence for CVP'
    >>> refusal(torch.eye(7), "CVP")
    ''
    """
    if not torch.isfinite(cam).all():
        return "the map is not finite (numeric overflow)"
    if cam.max() <= 0:
        return f"the map is zero everywhere: no evidence for {target}"
    if cam.numel() == 1:
        return "the map has a single cell: the image is too small for this network's deepest map"
    if cam.max() - cam.min() < FLAT * cam.max():
        return f"the map is flat: the same evidence for {target} everywhere"
    return ""


def _is_cvrnet(model: nn.Module) -> bool:
    return hasattr(model, "forward_maps")


def _feature_maps(model: Any, x: Tensor) -> list[Tensor]:
    if _is_cvrnet(model):
        return model.forward_maps(x)
    if not hasattr(model, "forward_features") or next(iter(model.parameters()), None) is None:
        raise UserError(NO_GRADIENTS)
    features = model.forward_features(x)
    if not isinstance(features, Tensor) or features.ndim != 4:
        what = "tokens" if isinstance(features, Tensor) else "several outputs"
        raise UserError(f"{_architecture(model)} ends in {what}; Grad-CAM needs a network that ends in a feature map")
    return [features.permute(0, 3, 1, 2) if _channels_last(model) else features]


def _raw_scores(model: Any, maps: list[Tensor]) -> Tensor:
    """Return the class scores (N, classes) before any softmax; for a CVR-Net, the mean over its heads."""
    if _is_cvrnet(model):
        scores = torch.stack(model.head.branch_logits(model.pool_maps(maps))).mean(0)
    else:
        scores = model.forward_head(maps[0].permute(0, 2, 3, 1) if _channels_last(model) else maps[0])
    if not isinstance(scores, Tensor) or scores.ndim != 2 or model.num_classes < 1:
        raise UserError(f"{_architecture(model)} has no classifier; expected a trained classifier")
    return scores


def _scale(cam: Tensor) -> Tensor:
    """Divide each map by its maximum; a map of zeros stays as it is."""
    maximum = cam.amax((1, 2), keepdim=True)
    return cam / torch.where(maximum == 0, 1, maximum)


def _channels_last(model: nn.Module) -> bool:
    return getattr(model, "output_fmt", "NCHW") == "NHWC"  # set by timm's Swin and others


def _architecture(model: nn.Module) -> str:
    cfg: Any = getattr(model, "pretrained_cfg", {})
    return str(cfg.get("architecture") or type(model).__name__)

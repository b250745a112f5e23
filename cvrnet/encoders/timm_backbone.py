"""Use any timm backbone as an encoder that returns its deepest feature maps in NCHW; find its pretrained weights."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import timm
import torch
from huggingface_hub import file_exists, try_to_load_from_cache
from timm.models import FeatureHookNet, get_model_input_config
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from cvrnet.encoders.packaged_weights import load_package, weights_package
from cvrnet.encoders.repositories import is_repository
from cvrnet.encoders.weights_file import read_weights_file
from cvrnet.errors import UserError
from cvrnet.hub_errors import explain

_IMPOSSIBLE = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError)
"""Exceptions that timm raises for arguments that a model does not take, or for weights that do not fit the model."""


class TimmEncoder(nn.Module):
    """Returns the deepest maps of a timm backbone: one for each stride, or several of one stride (plain ViTs).

    The backbone is timm's feature extractor, without a classifier. Maps of channels-last backbones, such as Swin, are
    permuted to NCHW.

    When a ResNet predicts in bfloat16 or float16, its first convolution and the convolutions in its shortcuts stay in
    float32. These layers are a small part of the operations, but their rounding errors affect all later maps. For other
    backbones, see ``float32_parts`` of `cvrnet.encoders.Encoder`.

    Arguments that are not listed here are those of `create_encoder`.

    Args:
        num_maps: Number of maps, counted from the deepest.
        source_size: Channels, height and width of the images on which the weights in the file ``weights`` were trained;
            by default, those of timm's own weights. timm adapts the stem and the position embeddings from this size to
            ``in_chans`` and ``img_size``.
        **kwargs: Further arguments of the timm model.

    Raises:
        ValueError: The backbone offers no feature maps, or fewer than ``num_maps``; or the file ``weights`` does not
            fit the backbone.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        weights: str | Path | None = None,
        num_maps: int = 3,
        in_chans: int = 3,
        img_size: tuple[int, int] | None = None,
        source_size: tuple[int, int, int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        cache_dir: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"in_chans": in_chans, **kwargs}
        cfg = timm.get_pretrained_cfg(name)
        if img_size is not None and cfg is not None and cfg.fixed_input_size:
            options["img_size"] = img_size
        try:
            file = read_weights_file(weights, name, **options) if weights else None
        except _IMPOSSIBLE as error:
            raise UserError(f"timm model {name!r} cannot serve as an encoder: {_first_line(error)}") from error
        overlay: dict[str, Any] = {} if source_size is None else {"input_size": source_size}
        if file is not None:
            overlay["state_dict"] = file.state
        elif pretrained:
            overlay |= locate_weights(name, cache_dir)
        loads = pretrained or file is not None
        options |= {"features_only": True, "out_indices": tuple(range(-num_maps, 0)), "cache_dir": cache_dir}
        if loads:
            options |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
        try:
            backbone: Any = _create(name, **options)
            # FeatureHookNet fills its result from hooks, which TorchScript cannot compile and FX does not trace.
            if isinstance(backbone, FeatureHookNet):
                backbone = _create(name, feature_cls="getter", **options)
        # Backbones without feature maps, or with too few, fail in many ways.
        except _IMPOSSIBLE as error:
            if file is not None:
                raise UserError(f"{weights} does not fit {name}: {_first_line(error)}") from error
            if pretrained:
                raise
            raise UserError(f"timm model {name!r} cannot serve as an encoder: {_first_line(error)}") from error
        if file is not None:
            file.check(backbone)
        self.backbone: nn.Module = backbone
        #: For an encoder from a repository or folder: the timm model and its arguments, to make it without this source.
        self.made_as: tuple[str, dict[str, Any]] | None = None
        #: Where the pretrained weights came from; "" for random weights.
        self.weights_from = file.origin if file is not None else weights_origin(name, overlay) if pretrained else ""
        backbone.pretrained_cfg.pop("state_dict", None)  # weights from a file or a package; they are loaded by now
        info = backbone.feature_info
        self.map_names = list(info.module_name())
        self.channels = list(info.channels())
        self.reductions = list(info.reduction())
        self.channels_last = str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC")
        self.first_conv = _first_conv(backbone)
        blocks = [(name, m) for name, m in backbone.named_modules() if isinstance(m, (BasicBlock, Bottleneck))]
        shortcuts = [f"backbone.{name}.downsample" for name, block in blocks if block.downsample is not None]
        #: Parts that stay in float32, measured for ResNets only; None: all parts do (see `cvrnet.encoders.Encoder`).
        self.float32_parts = (*self.first_conv, *shortcuts) if blocks else None
        self.mean: tuple[float, ...] = tuple(mean or backbone.pretrained_cfg["mean"])
        self.std: tuple[float, ...] = tuple(std or backbone.pretrained_cfg["std"])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps of images (N, in_chans, H, W): one (N, channels[i], H_i, W_i) for each scale."""
        maps = self.backbone(x)
        return [m.permute(0, 3, 1, 2) for m in maps] if self.channels_last else maps


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message; if this line only introduces a list, return the second line."""
    lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    return lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0]


def _create(name: str, **options: Any) -> Any:
    """Call timm.create_model without its warning that a feature extractor leaves the classifier's weights unused."""
    logger = logging.getLogger("timm.models._builder")
    logger.addFilter(_is_news)
    try:
        return timm.create_model(name, **options)
    finally:
        logger.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Unexpected keys")


def weights_origin(name: str, overlay: Mapping[str, Any]) -> str:
    """Return where a model's pretrained weights came from, in words; ``overlay`` is the result of `locate_weights`."""
    package = weights_package(name)
    if package is not None and "state_dict" in overlay:
        return f"{package.requirement} (Python package, SHA-256 {package.sha256:.12})"
    return f"{hub_repository(name)} (Hugging Face Hub)"


def _first_conv(backbone: nn.Module) -> tuple[str, ...]:
    """Return the names, in the encoder, of the convolutions that timm adapts to the number of image channels."""
    declared = get_model_input_config(backbone)["first_conv"] or ()
    modules = dict(backbone.named_modules())
    found = []
    for name in (declared,) if isinstance(declared, str) else declared:
        # timm's feature extractors keep the name, flatten it (FeatureListNet) or wrap the model (FeatureGetterNet).
        rewritten = (name, name.replace(".", "_", 1), f"model.{name}")
        found += [f"backbone.{candidate}" for candidate in rewritten if candidate in modules][:1]
    return tuple(found)


def hub_repository(name: str) -> str | None:
    """Return the Hugging Face Hub repository of a timm model's pretrained weights, ``timm/<architecture>.<tag>``.

    timm publishes the weights under that name, even if the model's cfg has only a download address, as for
    ``legacy_xception``. The name may have a tag. For ``hf-hub:user/repo``, the result is ``user/repo``. The result
    is None if timm has no pretrained weights, and for ``local-dir:FOLDER``.

    >>> hub_repository("resnet50"), hub_repository("legacy_xception"), hub_repository("densenet264d")
    ('timm/resnet50.a1_in1k', 'timm/legacy_xception.tf_in1k', None)
    """
    if is_repository(name):
        scheme, _, repository = name.partition(":")
        return None if scheme == "local-dir" else repository
    cfg = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if cfg is None or not cfg.has_weights:
        return None
    return cfg.hf_hub_id or f"timm/{cfg.architecture}.{cfg.tag}"


def weights_on_this_machine(name: str, cache_dir: str | Path | None = None) -> str:
    """Return where on this machine a model's pretrained weights are.

    ``"package"`` means an installed Python package with weights, ``"cache"`` means the Hub's cache, and ``""`` means
    neither.
    """
    package = weights_package(name)
    if package is not None and package.path is not None:
        return "package"
    file = _hub_file(name)
    cached = file and try_to_load_from_cache(**file, cache_dir=cache_dir)
    return "cache" if isinstance(cached, str) else ""


def locate_weights(name: str, cache_dir: str | Path | None = None) -> dict[str, Any]:
    """Return what to change in timm's pretrained cfg so that timm finds a model's weights; empty if nothing.

    The weights are taken from the first place that has them: an installed package, timm's folder of downloads (if the
    cfg has an address but no repository), the Hub's cache, their Hub repository, or the address in the cfg. At most
    one request is sent: it asks whether the repository has the weights, with a short timeout. timm's own request would
    retry for minutes.

    Raises:
        UserError: The package is damaged.
        OSError: The Hub did not answer within 10 s, answered with an error, or may not be asked (offline mode).
        Exception: The connection failed; the types are those of the Hub's client.
    """
    if (packaged := load_package(name)) is not None:
        return {"state_dict": packaged}
    cfg, repository, file = timm.get_pretrained_cfg(name), hub_repository(name), _hub_file(name)
    if cfg is None or file is None or cfg.custom_load:
        return {}
    downloads = Path(cache_dir or Path(torch.hub.get_dir(), "checkpoints"))  # where timm saves files from addresses
    if not cfg.hf_hub_id and isinstance(cfg.url, str) and (downloads / PurePosixPath(cfg.url).name).exists():
        return {}
    cached = try_to_load_from_cache(**file, cache_dir=cache_dir)
    if isinstance(cached, str):
        return {"file": cached}
    return {"hf_hub_id": repository} if file_exists(**file) and not cfg.hf_hub_id else {}


def _hub_file(name: str) -> dict[str, Any] | None:
    """Return the arguments with which the Hub's client finds the file of a timm model's weights; None if unknown."""
    cfg, repository = timm.get_pretrained_cfg(name) if timm.is_model(name) else None, hub_repository(name)
    if cfg is None or repository is None:
        return None
    repo_id, _, revision = repository.partition("@")
    return {"repo_id": repo_id, "filename": cfg.hf_hub_filename or "model.safetensors", "revision": revision or None}


def missing_weights(what: str, names: Sequence[str], error: BaseException) -> UserError:
    """Make the error for pretrained weights that cannot be loaded; its message names every way to get them."""
    reason, advice = explain(error)
    sources = " and ".join(hub_repository(name) or f"weights for {name}, which timm does not have," for name in names)
    packages = [package for name in names if (package := weights_package(name)) and package.path is None]
    ways = dict.fromkeys(package.install for package in packages)
    install = "".join(f"{way} gives them without the Hub; " for way in ways)
    files = "--encoder-weights FILE, or local-dir:FOLDER among --encoders, loads your own copy; "
    return UserError(
        f"cannot load the pretrained weights of {what}: pretrained=True needs {sources} from the Hugging Face Hub or "
        f"its cache ({reason}; {advice}); {install}{files * what.startswith('encoder')}--no-pretrained "
        "(pretrained=False) starts from random weights"
    )

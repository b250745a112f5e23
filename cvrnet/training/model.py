"""Create the model that training starts from."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.layers import PatchEmbed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cvrnet.copies import copy_network
from cvrnet.data.preprocessing import (
    check_interpolation,
    with_grey_version,
    with_lungs,
    with_outcome,
    with_volumes,
)
from cvrnet.encoders import locate_weights, missing_weights, weights_origin
from cvrnet.encoders.normalization import for_channels
from cvrnet.errors import UserError
from cvrnet.hub_errors import CLIENT_ERRORS
from cvrnet.network import CVRNet
from cvrnet.runs.checkpoint import checkpoint_unit, load_checkpoint, refuse_bags
from cvrnet.runs.hub_download import hint, hub_checkpoint, is_reference
from cvrnet.runs.layout import CONFIG
from cvrnet.runs.read import read_json
from cvrnet.training.batches import check_parts
from cvrnet.training.config import TrainConfig

_UNREADABLE: tuple[type[Exception], ...] = (*CLIENT_ERRORS, SafetensorError)


def is_trained(model: str) -> bool:
    """Return whether the setting ``model`` names a trained model (in a folder or on the Hub), and not a timm model."""
    return model.startswith(("local-dir:", "hf-hub:"))


def resolve_interpolation(config: TrainConfig) -> TrainConfig:
    """Return the config, with the interpolation that suits its model in place of ``"auto"``.

    A registered CVR-Net has its own interpolation, and a trained model keeps the interpolation of its training. Other
    models get the papers' nearest neighbour, so comparisons with the papers' network are fair.
    """
    if config.interpolation != "auto":
        check_interpolation(config.interpolation)
        return config
    if is_trained(config.model):
        own = _config_file(config.model).get("pretrained_cfg", {}).get("interpolation")
    else:
        registered = timm.get_pretrained_cfg(config.model) if _is_cvrnet(config.model) else None
        own = registered and registered.interpolation
    return replace(config, interpolation=own or "nearest")


def _config_file(reference: str) -> dict[str, Any]:
    """Return the config.json of a ``local-dir:`` or ``hf-hub:`` model.

    If the file is missing, return ``{}``; loading the model then reports that it is missing.
    """
    local = Path(reference.removeprefix("local-dir:"))
    folder = hub_checkpoint(reference) if is_reference(reference) else local
    content: dict[str, Any] = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    return content


def _is_cvrnet(model: str) -> bool:
    """Return whether a timm name, or a reference to a trained model, means a registered CVR-Net."""
    name = _config_file(model).get("architecture") if is_trained(model) else model
    return name in timm.list_models(module="cvrnet")


def create_for_training(config: TrainConfig, num_classes: int) -> nn.Module:
    """Create the model of a config: a CVR-Net or any other timm classifier, with the papers' preprocessing.

    The image is resized as a whole, without a centre crop, with the config's interpolation; if the config has
    ``lungs``, the image is first masked or cropped to the lungs. Pixels are normalised with the model's own mean and
    standard deviation.

    Raises:
        UserError: timm does not know the model, the model does not support a setting of the config, or its weights
            cannot be loaded.
    """
    trained = is_trained(config.model)
    if not trained and not timm.is_model(config.model):
        raise UserError(
            f"unknown model {config.model!r}; expected a name from `cvrnet models` or timm.list_models(), "
            f"or local-dir:FOLDER or hf-hub:user/repo to start from a trained model{hint(config.model)}"
        )
    config = resolve_interpolation(config)
    origin = f"local-dir:{hub_checkpoint(config.model)}" if is_reference(config.model) else config.model
    if trained:
        try:
            load_checkpoint(origin.removeprefix("local-dir:"))  # validates a model from an untrusted source
        except UserError as error:
            raise UserError(f"cannot load {config.model}: {error}") from error
    model = _create(config, origin, _options(config, num_classes))
    refuse_bags(checkpoint_unit(model) if config.unit == "image" else "image", "training without --unit")
    model.pretrained_cfg = model.default_cfg = _preprocessing(model.pretrained_cfg, config)
    return model


def _options(config: TrainConfig, num_classes: int) -> dict[str, Any]:
    """Return the arguments of timm's create_model for the model of a config.

    Raises:
        UserError: The config has a setting that only a CVR-Net supports, and the model is not a CVR-Net.
    """
    if not _is_cvrnet(config.model):
        only = {
            "findings need": config.findings,
            f"unit={config.unit!r} needs": config.unit != "image",
            "encoder_weights need": config.encoder_weights,
            f"freeze={config.freeze!r} needs": config.freeze,
        }
        for what, asked in only.items():
            if asked:
                raise UserError(
                    f"{what} a CVR-Net, but {config.model} is not one; expected a name from `cvrnet models`"
                )
    if config.unit != "image" and is_trained(config.model):
        raise UserError(
            f"unit={config.unit!r} trains a new head and cannot start from a trained model; "
            f"expected a name from `cvrnet models`, not {config.model}"
        )
    bag = {"unit": config.unit, "pooling": config.pooling, "time": config.time}
    return {
        **config.model_kwargs,
        "num_classes": num_classes,
        "in_chans": config.in_chans,
        **({"task": "multilabel"} if config.findings else {}),
        **(bag if config.unit != "image" else {}),
        **({"encoders": config.encoders} if config.encoders else {}),
        **({"encoder_weights": config.encoder_weights} if config.encoder_weights else {}),
        **({"drop_rate": config.drop_rate} if config.drop_rate else {}),
        # Some encoders work at only one size.
        **({"img_size": config.img_size} if _is_cvrnet(config.model) else {}),
    }


def _create(config: TrainConfig, origin: str, options: dict[str, Any]) -> Any:
    """Create the model with timm, from its name or from the ``local-dir:`` of a trained model."""
    trained = is_trained(config.model)
    chosen = {"pretrained_cfg", "pretrained_cfg_overlay"} & config.model_kwargs.keys()
    of_timm = config.pretrained and not (trained or chosen or _is_cvrnet(config.model))
    try:
        arguments = timm.models.resolve_model_input_args(origin, {"img_size": config.img_size}, **options)
        name = arguments.pop("model_name")
        overlay = locate_weights(config.model) if of_timm else {}
        model: Any = timm.create_model(
            name, pretrained=config.pretrained or trained, pretrained_cfg_overlay=overlay, **arguments
        )
    except UserError:
        raise
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"model {config.model!r}: {error}") from error
    except _UNREADABLE as error:
        if trained:
            raise UserError(f"cannot load {config.model}: {str(error).splitlines()[0]}") from error
        if not config.pretrained:
            raise
        raise missing_weights(repr(config.model), [config.model], error) from error
    if of_timm:
        model.weights_from = weights_origin(config.model, overlay)
    return model


def _preprocessing(stored: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """Return the preprocessing for whole images of the config's size; mean and std are those of ``stored``."""
    cfg: Any = {key: value for key, value in stored.items() if key not in ("state_dict", "file")}
    cfg = with_lungs(with_grey_version(cfg, config.grey_version), config.lung_settings)
    cfg = with_outcome(cfg, config.foretold.note()) if config.foretold else cfg
    return {
        **(cfg if config.unit == "image" else with_volumes(cfg, config.window, config.slices)),
        "input_size": (config.in_chans, config.img_size, config.img_size),
        "interpolation": config.interpolation,
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "mean": for_channels(cfg["mean"], config.in_chans),
        "std": for_channels(cfg["std"], config.in_chans),
    }


class InitialModel:
    """The model from which every training of a run starts. It is created once, when it is first needed."""

    def __init__(self, config: TrainConfig, num_classes: int) -> None:
        self.config, self.num_classes = config, num_classes

    @cached_property
    def model(self) -> nn.Module:
        """The model; its random weights depend only on the seed."""
        torch.manual_seed(self.config.seed)
        return create_for_training(self.config, self.num_classes)

    def copy(self) -> nn.Module:
        """Return a copy to train. All copies share frozen encoders, which do not change."""
        model: Any = self.model
        shared = [model.encoders] if self.config.freeze == "all" else []
        return copy_network(model, {id(part): part for part in shared})


def pretrained_from(model: Any) -> list[str]:
    """Return where pretrained weights came from: a text for each encoder of a CVR-Net, or one text for another model.

    ``model`` is from `create_for_training`. The list has no text for random weights. If training starts from a model
    that was trained before, the list is empty: `TrainConfig.model` names that model.
    """
    parts = model.encoders if isinstance(model, CVRNet) else [model]
    return [origin for part in parts if (origin := getattr(part, "weights_from", ""))]


def check_trainable(model: nn.Module, config: TrainConfig) -> None:
    """Check that a model can take images of the config's size, and can train with the config's batch size.

    Raises:
        UserError: The model cannot take images of this size (see `smallest_part`), the batches are too small (see
            `cvrnet.training.batches.check_parts`), or a vision transformer's patches do not cover the image.
    """
    _check_patches(model, config.img_size)
    check_parts("batch_size", config.batch_size, config.grad_accum, smallest_part(model, config))


def _check_patches(model: nn.Module, img_size: int) -> None:
    """Raise UserError if the image size is not a multiple of a vision transformer's patch size.

    Otherwise timm would cut off the radiograph's right and lower edge without a message. Transformers that pad
    images of any size are not checked.
    """
    for part in model.modules():
        embedding: Any = part if isinstance(part, PatchEmbed) else None
        if embedding is None or embedding.img_size != (img_size, img_size) or embedding.dynamic_img_pad:
            continue
        patch = embedding.patch_size[0]
        if rest := img_size % patch:
            below = img_size - rest
            sizes = " or ".join(str(size) for size in (below, below + patch) if size)
            raise UserError(
                f"images of {img_size} pixels cannot be divided into the vision transformer's patches of {patch} "
                f"pixels; expected a multiple of {patch}, such as --img-size {sizes}"
            )


def smallest_part(model: nn.Module, config: TrainConfig) -> int:
    """Return the least number of images in one forward pass of training: 1, or 2 if batch norm needs a second image.

    In training, a batch norm cannot normalise a single value per channel. The number of values per channel that one
    image gives depends on the network and the image size. To find this number, one image of zeros is run through the
    model, in evaluation mode.

    Raises:
        UserError: The model cannot take images of the config's size.
    """
    single: list[bool] = []

    def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        single.append(inputs[0].numel() == inputs[0].shape[1])

    hooks = [m.register_forward_pre_hook(look) for m in model.modules() if isinstance(m, _BatchNorm)]
    device, was_training = next(model.parameters()).device, model.training
    try:
        with torch.no_grad():  # not inference_mode, because a model may store a tensor for later use
            model.eval()(torch.zeros(1, config.in_chans, config.img_size, config.img_size, device=device))
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{config.model} cannot take images of {config.img_size} pixels ({reason})") from error
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return 2 if any(single) else 1

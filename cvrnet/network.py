"""CVR-Net: several encoders, heads (fully connected blocks) on their feature maps, and the mean of the heads' outputs.

The two CVR-Net papers: the first is "CVR-Net: A deep convolutional neural network for coronavirus recognition from
chest radiography images" (arXiv 2007.11993), the second is "Challenges of Deep Learning Methods for COVID-19 Detection
Using Public Datasets" (medRxiv 2020.11.07.20227504).
"""

# No `from __future__ import annotations`: torch.fx copies annotations into its graphs, where TorchScript expects types
# instead of strings.
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import to_2tuple
from timm.models import build_model_with_cfg
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cvrnet.encoders import is_repository
from cvrnet.encoders.batch_norm import set_batch_norms
from cvrnet.encoders.create_encoders import (
    checked_args,
    create_encoders,
    create_normalizer,
    encoder_names,
    named_files,
    weight_files,
)
from cvrnet.encoders.normalization import for_channels
from cvrnet.errors import UserError
from cvrnet.heads import BagHead, MultiScaleAveragingHead, check_num_classes
from cvrnet.heads.classifiers import Classifiers
from cvrnet.heads.pooling import UNITS

__all__ = ["CVRNet"]


class CVRNet(nn.Module):
    """Multi-encoder, multi-scale classifier (first paper, section 2.2; second paper, section 5.1).

    With two encoders there are five heads, as in the papers. P1 and P2 each use one of the two shallower maps of
    encoder 1. P3 uses the deepest maps of both encoders, concatenated. P4 and P5 each use one of the two shallower maps
    of encoder 2. One encoder gives three heads, three encoders give seven.

    ``forward`` returns logits whose softmax is the mean of the heads' softmax outputs. With ``task="multilabel"``, the
    sigmoids of the logits are the mean of the heads' sigmoids. ``forward_features`` returns the maps of all heads as
    one tensor: pooled to the grid of the first encoder's deepest map, and concatenated. Each channel keeps its exact
    mean, so ``forward_head(forward_features(x))`` equals ``forward(x)`` at every input size.

    Args:
        encoders: Names for :func:`cvrnet.encoders.create_encoder`. A name may be a repository or a folder. The config
            of a saved model then states the encoder's architecture and arguments instead of this name, so the saved
            model loads without the repository or folder.
        encoder_args: Further arguments of each encoder, in the order of ``encoders``.
        num_classes: At least 2 (with ``task="multilabel"``, at least 1), or 0 for no classifier.
        in_chans: Number of channels of the image.
        hidden_sizes: Widths of each head's dense layers.
        act_layer: Activation of the heads, by timm's name.
        drop_rate: Dropout before each head's classifier (the papers: none).
        drop_path_rate, drop_block_rate: Stochastic depth and DropBlock of the encoders (the papers: none), as in timm.
        bn_eps, bn_momentum: Epsilon and momentum of every batch norm; None keeps the encoders' values.
        global_pool: ``"avg"``, or ``""`` (with ``num_classes=0``) for unpooled features.
        img_size: Height and width of the image, for encoders that work at one size only, such as Swin; other encoders
            take any size.
        pretrained: Load pretrained weights into each encoder that has no file in ``encoder_weights``.
        encoder_weights: Weight files to load, also without ``pretrained``: each ``NAME=FILE``, where NAME is one of
            ``encoders``; or ``FILE`` if there is only one encoder.
        cache_dir: Folder of the Hub's cache for pretrained weights; None is the Hub's default folder.
        mean, std: Mean and standard deviation with which each channel of the model's input is normalised. For each
            encoder, the input is converted to the encoder's own normalisation.
        scales: ``"all"``, or ``"deepest"`` for the head P3 alone (an ablation).
        average: ``"probabilities"`` to average the heads' softmax outputs, or ``"logits"`` (an ablation).
        task: ``"multiclass"``, or ``"multilabel"``: the classes are findings, and an image may have several.
        unit: ``"image"``: one prediction for each image. ``"study"`` or ``"patient"``: one prediction for a bag of
            images, which `cvrnet.heads.BagHead` pools; ``forward`` then takes each image as a bag of one.
        pooling, time: As in `cvrnet.heads.BagHead`.
        device, dtype: Device and dtype of the parameters.

    Raises:
        ValueError: ``num_classes=1`` with ``task="multiclass"``; no encoder; an unknown encoder; pretrained weights
            that cannot be loaded or do not fit; an unknown value of ``global_pool``, ``scales``, ``average``, ``task``,
            ``unit`` or ``pooling``; or a setting that an encoder does not have.
    """

    __jit_unused_properties__ = ("_model_args",)

    def __init__(
        self,
        encoders: Sequence[str] = ("resnet50", "legacy_xception"),
        encoder_args: Sequence[Mapping[str, Any]] = (),
        num_classes: int = 3,
        in_chans: int = 3,
        hidden_sizes: Sequence[int] = (512, 128, 64),
        act_layer: str = "relu",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        drop_block_rate: float = 0.0,
        bn_eps: float | None = None,
        bn_momentum: float | None = None,
        global_pool: str = "avg",
        img_size: int | Sequence[int] | None = None,
        pretrained: bool = False,
        encoder_weights: str | Sequence[str] = (),
        cache_dir: str | Path | None = None,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
        scales: str = "all",
        average: str = "probabilities",
        task: str = "multiclass",
        unit: str = "image",
        pooling: str = "attention",
        time: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if scales not in ("all", "deepest"):
            raise UserError(f"scales={scales!r}; expected 'all' or 'deepest'")
        if unit not in UNITS:
            raise UserError(f"unit={unit!r}; expected {', '.join(UNITS)}")
        names = encoder_names(encoders)
        self.global_pool = _check_global_pool(global_pool, num_classes, task)
        placement: dict[str, Any] = {"device": device, "dtype": dtype}
        options = {"in_chans": in_chans, "img_size": _size(img_size), "cache_dir": cache_dir, **placement}
        drops = {"drop_path_rate": drop_path_rate, "drop_block_rate": drop_block_rate}
        files, own = named_files(names, encoder_weights), checked_args(names, encoder_args)
        built = create_encoders(names, own, pretrained, files, drops, **options)
        made = [getattr(e, "made_as", None) or (name, args) for e, name, args in zip(built, names, own, strict=True)]
        from_repositories = any(map(is_repository, names))
        names, own = [name for name, _ in made], [args for _, args in made]
        self._without_repositories = {"encoders": names, "encoder_args": own} if from_repositories else {}
        # Every Encoder is a module, but a protocol cannot state this.
        self.encoders = nn.ModuleList(built)  # pyrefly: ignore[bad-argument-type]
        set_batch_norms(self.encoders, names, {"eps": bn_eps, "momentum": bn_momentum})
        self.normalizers = nn.ModuleList(create_normalizer(e, mean, std, in_chans, placement) for e in built)

        self.groups = groups = _head_groups([len(e.channels) for e in built], scales)
        channels = [c for e in built for c in e.channels]
        reductions = [r for e in built for r in e.reductions]
        self.fused = [i for group in groups for i in group]  # made here, as TorchScript has no nested comprehensions
        self.widths = [sum(channels[i] for i in group) for group in groups]
        self.encoder_names = names
        self.map_names = [f"{name}.{m}" for name, e in zip(names, built, strict=True) for m in e.map_names]
        self.deepest = len(built[0].channels) - 1  # index of the map whose grid is the grid of forward_features
        # timm's FeatureInfo requires reductions that do not decrease, but the heads are in the papers' order.
        self.scale_order = sorted(range(len(groups)), key=lambda g: reductions[groups[g][0]])
        self.feature_info = [
            {"num_chs": self.widths[g], "reduction": reductions[groups[g][0]], "module": f"head.blocks.{g}"}
            for g in self.scale_order
        ]
        self.in_chans = in_chans
        self.num_classes, self.task, self.unit = num_classes, task, unit
        self.num_features = sum(self.widths)
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self._head_options = {"act_layer": act_layer, "drop_rate": drop_rate, "average": average, "task": task}
        self._bags: dict[str, Any] = {} if unit == "image" else {"pooling": pooling, "time": bool(time)}
        self._hidden_sizes = tuple(hidden_sizes)
        self._make_head(placement)
        # timm's load_pretrained reads these names (get_model_traits), and adapts the weights to the number of channels.
        self._traits = {
            "first_conv": tuple(f"encoders.{i}.{conv}" for i, e in enumerate(built) for conv in e.first_conv)
        }

    @property
    def _model_args(self) -> dict[str, Any]:
        """The model's arguments, for config.json. timm sets them here when it has built the model."""
        return self._arguments

    @_model_args.setter
    def _model_args(self, arguments: Mapping[str, Any]) -> None:
        kept = {name: value for name, value in arguments.items() if name != "encoder_weights"}
        self._arguments: dict[str, Any] = {**kept, **self._without_repositories}

    @torch.jit.ignore
    def _make_head(self, placement: dict[str, Any]) -> None:
        """Make a new head. For unpooled features, it has no parameters, because DDP fails on unused parameters."""
        sizes = self._hidden_sizes if self.global_pool else ()
        options: dict[str, Any] = {**self._head_options, **self._bags, **placement}
        kind = BagHead if self._bags else MultiScaleAveragingHead
        self.head = kind(self.widths, self.num_classes, sizes, **options).train(self.training)
        self.head_hidden_size = self.head.num_features

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return parameter groups for layer-wise learning-rate decay (timm.optim): the encoders, then the heads."""
        return {"stem": r"^encoders", "blocks": [(r"^head", None)]}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each encoder in the backward pass instead of keeping its activations.

        Each batch then passes through batch norm twice, so the running statistics are updated twice in each step.
        """
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> tuple[nn.Module, ...]:
        """Return the heads' linear classifiers, in the order P1, P2, and so on; see `cvrnet.heads.classifiers`."""
        return Classifiers(block.get_submodule("classifier") for block in self.head.blocks)

    @torch.jit.ignore
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifiers by new ones; ``num_classes=0`` removes them.

        With ``num_classes=0`` and ``global_pool=""``, pooling and dense layers are removed as well. If ``global_pool``
        is None, the pooling does not change, with one exception: if it was removed before, and ``num_classes`` is not
        0, the pooling comes back, with new dense layers.
        """
        if global_pool is None:
            global_pool = "avg" if num_classes else self.global_pool
        before, self.global_pool = self.global_pool, _check_global_pool(global_pool, num_classes, self.task)
        self.num_classes = num_classes
        if before == self.global_pool:
            self.head.reset(num_classes)
        else:
            like = next(self.encoders.parameters())
            self._make_head({"device": like.device, "dtype": like.dtype})

    def forward_maps(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps of all encoders, encoder by encoder (first paper, Fig. 2: E13 to E15, E23 to E25).

        The images x are (N, in_chans, H, W), normalised with the model's mean and std. Each map is (N, C_i, H_i, W_i).
        """
        maps: list[Tensor] = []
        for normalizer, encoder in zip(self.normalizers, self.encoders):  # noqa: B905  # TorchScript has no strict=
            image = normalizer(x)
            if self.grad_checkpointing and not torch.jit.is_scripting():
                maps.extend(checkpoint(encoder, image, use_reentrant=False))
            else:
                maps.extend(encoder(image))
        return maps

    def pool_maps(self, maps: list[Tensor]) -> list[Tensor]:
        """Return the input (N, widths[i]) of each head, P1 first: the head's maps, average-pooled and concatenated."""
        pooled = [m.mean((2, 3)) for m in maps]
        return [torch.cat([pooled[i] for i in group], 1) for group in self.groups]

    def branch_logits(self, x: Tensor) -> list[Tensor]:
        """Return each head's own logits for the images x, P1 first: one tensor (N, num_classes) for each head."""
        return self.head.branch_logits(self.pool_maps(self.forward_maps(x)))

    @torch.jit.ignore
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the result of ``forward_features``, and the heads' input maps in the order of ``feature_info``.

        The arguments are as in timm. Two of them have no effect: ``norm``, because there is no final norm, and
        ``stop_early``, because every encoder runs to its end for the deepest map. ``output_fmt`` must be ``"NCHW"``.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt={output_fmt!r}; expected 'NCHW'")
        take = _take_indices(len(self.feature_info), indices)
        maps = self.forward_maps(x)
        groups = [self.groups[self.scale_order[i]] for i in take]
        chosen = [_concatenate([maps[j] for j in group], maps[group[0]]) for group in groups]
        return chosen if intermediates_only else (self._fuse(maps), chosen)

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: int | list[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the head; return ``indices`` as a list of non-negative numbers. timm's FeatureGetterNet calls this."""
        take = _take_indices(len(self.feature_info), indices)
        if prune_head:
            self.reset_classifier(0, "")
        return take

    def forward_features(self, x: Tensor) -> Tensor:
        """Return all heads' maps as one tensor (N, num_features, h, w) on the grid of encoder 1's deepest map."""
        return self._fuse(self.forward_maps(x))

    def _fuse(self, maps: list[Tensor]) -> Tensor:
        return _concatenate([maps[i] for i in self.fused], maps[self.deepest])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits (N, num_classes), or pre-logits (N, head_hidden_size), for the result of `forward_features`."""
        if self.global_pool == "":
            return x
        return self.head(list(x.mean((2, 3)).split(self.widths, 1)), pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, num_classes) of images (N, in_chans, H, W), normalised with the model's mean and std.

        The softmax of the logits is the mean of the heads' softmaxes; with ``task="multilabel"``, the sigmoids of the
        logits are the mean of the heads' sigmoids. With ``global_pool=""``, return the feature maps of
        ``forward_features`` instead.
        """
        maps = self.forward_maps(x)
        if self.global_pool == "":
            return self._fuse(maps)
        return self.head(self.pool_maps(maps))


def _concatenate(maps: list[Tensor], like: Tensor) -> Tensor:
    """Return the maps, pooled to the grid of `like` and concatenated; every channel keeps its own global mean."""
    aligned: list[Tensor] = []
    for m in maps:
        pooled = F.adaptive_avg_pool2d(m, (like.shape[2], like.shape[3]))
        # If the map's sides are not multiples of the grid's sides, adaptive pooling counts some pixels twice. So each
        # channel's mean is restored.
        aligned.append(pooled + (m.mean((2, 3), keepdim=True) - pooled.mean((2, 3), keepdim=True)))
    return torch.cat(aligned, 1)


def _take_indices(count: int, indices: int | Sequence[int] | None) -> list[int]:
    """Return non-negative indices, like timm's private feature_take_indices, but refuse an empty sequence."""
    wanted = range(-indices, 0) if isinstance(indices, int) else range(count) if indices is None else indices
    if not wanted or not all(-count <= i < count for i in wanted):
        numbers = f"a number of last feature maps, 1 to {count}, or a list of indices from -{count} to {count - 1}"
        raise ValueError(f"indices={indices!r}; expected {numbers}")
    return [i % count for i in wanted]


def _check_global_pool(global_pool: str, num_classes: int, task: str) -> str:
    check_num_classes(num_classes, task)
    if global_pool not in ("avg", ""):
        raise UserError(f"global_pool={global_pool!r}; expected 'avg', or '' for unpooled features")
    if global_pool == "" and num_classes != 0:
        wanted = f"num_classes=0 instead of {num_classes}, or global_pool='avg'"
        raise UserError(f"global_pool='' gives feature maps, which the heads cannot classify; expected {wanted}")
    return global_pool


def _head_groups(counts: list[int], scales: str) -> list[list[int]]:
    """Return the indices of each head's maps.

    ``counts`` has each encoder's number of maps. Maps are numbered by encoder, and within it from shallow to deep.

    >>> _head_groups([3, 3], "all")
    [[0], [1], [2, 5], [3], [4]]
    """
    ends = list(itertools.accumulate(counts))
    deepest = [end - 1 for end in ends]
    if scales == "deepest":
        return [deepest]
    single = [[i] for i in range(ends[-1]) if i not in deepest]
    first = counts[0] - 1  # number of heads before P3: one for each shallower map of encoder 1
    return [*single[:first], deepest, *single[first:]]


def _size(img_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    return None if img_size is None else to_2tuple(img_size)


def create_cvrnet(variant: str, pretrained: bool, default_encoders: tuple[str, ...], **kwargs: Any) -> CVRNet:
    """Build a variant with timm's builder.

    With ``pretrained``, load the weights of the whole model if the cfg names their source (a run folder, a Hub
    repository), otherwise pretrained weights of each encoder. A whole model's weights include its encoders' weights, so
    no other weights are downloaded. The whole model's config is not trusted, so this config must not name repositories
    or folders as encoders.
    """
    kwargs.setdefault("encoders", default_encoders)
    # mean and std go into the cfg, where timm's data pipeline looks for them.
    overlay = dict(kwargs.pop("pretrained_cfg_overlay", None) or {})
    overlay |= {key: kwargs.pop(key) for key in ("mean", "std") if key in kwargs}
    given = kwargs.pop("pretrained_cfg", None)
    cfg = timm.models.resolve_pretrained_cfg(variant, pretrained_cfg=given, pretrained_cfg_overlay=overlay)
    img_size = _size(kwargs.pop("img_size", None)) or cfg.input_size[1:]
    whole = any(getattr(cfg, source) for source in ("url", "file", "state_dict", "hf_hub_id"))
    if whole:
        _refuse_sources(kwargs)
    cache_dir = kwargs.pop("cache_dir", None)
    model = build_model_with_cfg(
        # In `partial`, because the builder would not pass cache_dir on, and would write img_size to config.json.
        partial(CVRNet, img_size=img_size, cache_dir=cache_dir, pretrained=pretrained and not whole),
        variant,
        pretrained and whole,
        pretrained_cfg=cfg.to_dict(),
        feature_cfg={"feature_cls": "getter", "out_indices": None},  # None: all maps
        cache_dir=cache_dir,
        mean=cfg.mean,
        std=cfg.std,
        **kwargs,
    )
    _describe(model, img_size)
    return model


def _refuse_sources(arguments: Mapping[str, Any]) -> None:
    """Refuse repositories and weight files for the encoders of a trained model, which holds the encoders' weights.

    The model's config is untrusted, so it must not start downloads.
    """
    names = [name for name in encoder_names(arguments["encoders"]) if is_repository(str(name))]
    if unwanted := [*names, *weight_files(arguments.get("encoder_weights", ()))]:
        message = f"{unwanted[0]!r} is not needed; leave it out: the trained model holds the weights of its encoders"
        raise UserError(message)


def _describe(model: Any, img_size: tuple[int, int]) -> None:
    """Write this model's own image size, channels, stems and classifiers into its cfg (a copy of the variant's cfg)."""
    network: Any = model if isinstance(model, CVRNet) else model.model  # timm's feature extractor wraps the network
    channels = network.in_chans
    for cfg in (model.pretrained_cfg, network.pretrained_cfg):
        cfg["input_size"] = (channels, *img_size)
        cfg["mean"], cfg["std"] = for_channels(cfg["mean"], channels), for_channels(cfg["std"], channels)
    network.pretrained_cfg["first_conv"] = network._traits["first_conv"]
    network.pretrained_cfg["classifier"] = tuple(f"head.blocks.{i}.classifier" for i in range(len(network.groups)))

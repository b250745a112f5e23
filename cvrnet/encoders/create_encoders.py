"""Create the encoders of a network from its arguments, which may come from an untrusted config.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from cvrnet.encoders.model_args import check_model_args
from cvrnet.encoders.normalization import ChannelAffine, for_channels
from cvrnet.encoders.registry import Encoder, create_encoder
from cvrnet.encoders.timm_backbone import missing_weights
from cvrnet.errors import UserError


def encoder_names(encoders: str | Sequence[str]) -> list[str]:
    """Return the encoders' names as a list; a string is a single name. Raise UserError if there are no names."""
    names = [encoders] if isinstance(encoders, str) else list(encoders)
    if not names:
        raise UserError("encoders is empty; expected at least one name, such as ('resnet50', 'legacy_xception')")
    return names


def checked_args(names: Sequence[str], arguments: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Check the arguments of each encoder, and return them; without ``arguments``, return an empty dict for each.

    The arguments may come from an untrusted config.json.
    """
    if arguments and len(arguments) != len(names):
        raise UserError(f"encoder_args has {len(arguments)} items; expected one for each of {len(names)} encoders")
    for own in arguments:
        try:
            check_model_args(own)
        except ValueError as error:
            raise UserError(f"encoder_args {error}") from error
    return [dict(own) for own in arguments] or [{} for _ in names]


def named_files(names: Sequence[str], files: str | Sequence[str]) -> dict[str, str]:
    """Map encoders to their weight files, from ``NAME=FILE``, or from ``FILE`` if there is only one encoder.

    Encoders without a file are not in the result. If there is only one encoder, a text that does not begin with the
    encoder's name and ``=`` is the name of the file.

    >>> named_files(["resnet18"], "weights=2.pth"), named_files(["resnet18", "vgg11"], ["vgg11=b.pth"])
    ({'resnet18': 'weights=2.pth'}, {'vgg11': 'b.pth'})
    """
    found = {}
    for text in weight_files(files):
        name, _, file = str(text).partition("=")
        if name in names and file:
            found[name] = file
        elif len(names) == 1:
            found[names[0]] = str(text)
        else:
            raise UserError(f"encoder_weights={text!r}; expected NAME=FILE, where NAME is {' or '.join(names)}")
    return found


def weight_files(files: str | Sequence[str]) -> Sequence[str]:
    """Return the argument ``encoder_weights`` as a list; a string is a single file."""
    if isinstance(files, bool):
        raise UserError(f"encoder_weights={files}; expected NAME=FILE; for pretrained weights, use pretrained=True")
    return [files] if isinstance(files, str) else files


def create_encoders(
    names: Sequence[str],
    arguments: Sequence[dict[str, Any]],
    pretrained: bool,
    files: Mapping[str, str],
    drops: dict[str, Any],
    **kwargs: Any,
) -> list[Encoder]:
    """Create the encoders, and give each one its weights.

    The weights are read from the encoder's file in ``files``. Without a file, they are the encoder's pretrained weights
    or, if ``pretrained`` is False, random.

    ``drops`` has the rates of stochastic depth and DropBlock. A rate of 0 is not passed on, because some encoders do
    not take these options.
    """
    drops = {option: rate for option, rate in drops.items() if rate}
    for option, rate in drops.items():
        if not 0 < rate < 1:
            raise UserError(f"{option}={rate!r}; expected at least 0, and less than 1")
    encoders = []
    for name, own in zip(names, arguments, strict=True):
        source: dict[str, Any] = {"weights": files[name]} if name in files else {"pretrained": pretrained}
        try:
            encoders.append(create_encoder(name, **source, **{**own, **drops}, **kwargs))
        except Exception as error:  # the Hub's client raises many types; the advice is the same for all
            if lacking := [option for option in drops if f"unexpected keyword argument '{option}'" in str(error)]:
                message = f"encoder {name!r} takes no {lacking[0]}; leave it out, or choose another encoder"
                raise UserError(message) from error
            if not pretrained or isinstance(error, (UserError, TypeError)):
                raise
            raise missing_weights(f"encoder {name!r}", names, error) from error
    return encoders


def create_normalizer(
    encoder: Encoder, mean: Sequence[float], std: Sequence[float], in_chans: int, placement: dict[str, Any]
) -> nn.Module:
    """Create the layer that converts images from the model's normalisation (mean and std) to the encoder's."""
    before = for_channels(mean, in_chans), for_channels(std, in_chans)
    after = for_channels(encoder.mean, in_chans), for_channels(encoder.std, in_chans)
    return nn.Identity() if before == after else ChannelAffine(*before, *after, **placement)

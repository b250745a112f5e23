"""The classifiers of several heads, which timm's train.py can initialise like a single classifier."""

from __future__ import annotations

from torch import nn


class Classifiers(tuple[nn.Module, ...]):
    """The linear classifiers of several heads.

    ``weight`` and ``bias`` are the parameters of all classifiers together, so timm's train.py can scale weights
    and biases (``--head-init-scale``) and set the biases (``--head-init-bias``) like those of a single classifier.
    """

    @property
    def weight(self) -> ParametersTogether:
        """Each classifier's weight."""
        return ParametersTogether(classifier.get_parameter("weight") for classifier in self)

    @property
    def bias(self) -> ParametersTogether:
        """Each classifier's bias."""
        return ParametersTogether(classifier.get_parameter("bias") for classifier in self)


class ParametersTogether(tuple[nn.Parameter, ...]):
    """Several parameters with methods of a single one: each method changes all of them in place."""

    def mul_(self, factor: float) -> ParametersTogether:
        """Multiply every parameter by a number."""
        for parameter in self:
            parameter.mul_(factor)
        return self

    def fill_(self, value: float) -> ParametersTogether:
        """Set all values of every parameter to a number."""
        for parameter in self:
            parameter.fill_(value)
        return self

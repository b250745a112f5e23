"""The old name of `cvrnet.runs.held_out`: it works for one release, with a DeprecationWarning."""

from cvrnet.moved import moved_names

__getattr__ = moved_names(__name__, dict.fromkeys(("HeldOut", "held_out", "trained_on"), "cvrnet.runs.held_out"))

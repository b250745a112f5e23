"""Write sentences of the model card: how a model was calibrated, and which event it predicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cvrnet.data.outcomes import YES, Outcome
from cvrnet.text import markdown


def calibration_sentence(done: Mapping[str, Any]) -> str:
    """Return sentences on how ``cvrnet calibrate`` changed the model, and with which images; "" if it did not."""
    if not done:
        return ""
    biases = ", ".join(f"{name} {value:+.2f}" for name, value in done["bias"].items())
    by_class = ", ".join(f"{k}: {n['images']} images of {n['patients']} patients" for k, n in done["by_class"].items())
    return (
        f"After the training, the model was calibrated for another hospital ({done['method']}), with {done['images']} "
        f"images of {done['patients']} patients from there{f' ({by_class})' if by_class else ''}. The logarithms of "
        f"its probabilities are multiplied by {done['scale']:.2f}, these biases are added ({biases}), and a softmax "
        "gives the calibrated probabilities. cvrnet and exported ONNX files do this; timm and transformers do not."
    )


def outcome_sentence(outcome: Outcome | None) -> str:
    """Return sentences, in Markdown, on what the class ``yes`` means and which radiographs were used; "" for None.

    If the column has only yes and no, the day of the event is not known: the horizon has no effect, and radiographs
    from after the event cannot be left out. So the sentences mention these two points only for events with a known day.
    """
    if outcome is None:
        return ""
    counts = (
        f"`{YES}` means an event: {markdown(outcome.column)}. Where the day of the event was known, the event counts "
        f"if it comes within {outcome.horizon:g} days of"
    )
    if outcome.until == "admission":
        return f"{counts} the admission (day 0). Only radiographs of day 0 or before were used."
    return f"{counts} the radiograph, and only radiographs from before the event were used."

"""Find images that use an unusual number of bits; only grey PNG and TIFF files of more than 8 bits are compared."""

from __future__ import annotations

from collections import Counter

from cvrnet.audit.findings import Finding
from cvrnet.audit.measurements import Measurements
from cvrnet.formatting import count

ADVICE = "Brightness depends on the bits in use: compare these images with the others, and store all at one bit depth."


def depth_findings(measured: Measurements) -> list[Finding]:
    """Warn if the grey levels of PNG and TIFF files of more than 8 bits use different numbers of bits.

    Otherwise, the list is empty.
    """
    depths = {r.name: facts.depth for r, facts in zip(measured.records, measured.facts, strict=True) if facts.depth}
    if len(set(depths.values())) < 2:
        return []
    usual, most = Counter(depths.values()).most_common(1)[0]
    others = {name: depth for name, depth in depths.items() if depth != usual}
    bits = " or ".join(map(str, sorted(set(others.values()))))
    who = count(len(others), "image of more than 8 bits uses", "images of more than 8 bits use")
    sentence = f"{who} {bits} bits, but {most} use {usual}: the two groups may differ in brightness."
    figures = {"usual": usual, "table": [{"path": name, "bits": depth} for name, depth in others.items()]}
    return [Finding("depths", "warning", sentence, figures, tuple(others), ADVICE)]

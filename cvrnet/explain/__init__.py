"""Compute and draw Grad-CAM of the whole network, of each encoder and of each head: where the network looked.

Some modules need the extra ``train``, such as `cvrnet.explain.pictures` (overlays and figures as files) and
`cvrnet.explain.measure_data` (maps compared with masks). This package does not import these modules; import each of
them by its full name. The first and the second CVR-Net paper are arXiv 2007.11993 and medRxiv
2020.11.07.20227504.
"""

from cvrnet.explain.explaining import Explanation, available_parts, explain, explain_classes, panel_names
from cvrnet.explain.gradcam import NETWORK, class_evidence, combine, grad_cam, map_parts
from cvrnet.explain.overlay import draw_outline, draw_overlay, example_panels

__all__ = [
    "NETWORK",
    "Explanation",
    "available_parts",
    "class_evidence",
    "combine",
    "draw_outline",
    "draw_overlay",
    "example_panels",
    "explain",
    "explain_classes",
    "grad_cam",
    "map_parts",
    "panel_names",
]

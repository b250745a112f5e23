"""Find the lungs in frontal chest radiographs: a small U-Net, its training and its quality (extra ``lungs``)."""

from typing import TYPE_CHECKING

from cvrnet.lazy import lazy_names

if TYPE_CHECKING:
    from cvrnet.lungs.fit import fit_segmenter
    from cvrnet.lungs.quality import mask_quality
    from cvrnet.lungs.segmenter import Segmenter

__all__ = ["Segmenter", "fit_segmenter", "mask_quality"]

# Imported when first used, because segmentation_models_pytorch is an extra.
__getattr__ = lazy_names(
    __name__,
    {
        "Segmenter": "cvrnet.lungs.segmenter",
        "fit_segmenter": "cvrnet.lungs.fit",
        "mask_quality": "cvrnet.lungs.quality",
    },
)

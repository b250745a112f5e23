"""Draw the attention: how much each picture of a bag (a study or patient) counts in the bag's prediction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cvrnet.errors import UserError
from cvrnet.figures.style import GREY, OKABE_ITO, finish, legend_below, new_figure, set_labels

ROW = 0.75  # inches


def plot_attention(
    bags: Sequence[tuple[str, NDArray[np.float64], NDArray[np.bool_], Sequence[float]]], title: str | None = None
) -> Figure:
    """Draw a row of bars for each bag, and in it a bar for each picture: the picture's share in the bag's prediction.

    The bars of pictures with a lesion have another colour.

    Each bag is a tuple: its name, and three sequences with a value for each picture. These values are the picture's
    share (see `cvrnet.heads.BagHead.pool`), whether the picture has a lesion, and the days from the picture to the
    bag's last picture. The x axis shows the days or, if all days are zero, the position of the picture in its bag.

    Raises:
        UserError: There are no bags.
    """
    if not bags:
        raise UserError("no bags to draw")
    figure, axes = new_figure([1] * len(bags))
    timed = any(any(days) for *_, days in bags)
    lesions = any(lesion.any() for _, _, lesion, _ in bags)
    for ax, (name, shares, lesion, days) in zip(axes, bags, strict=True):
        at = -np.array(days) if timed else np.arange(1, len(shares) + 1)
        colors = [OKABE_ITO[1] if has else OKABE_ITO[0] for has in lesion]
        ax.bar(at, shares, width=0.8, color=colors)
        ax.axhline(1 / len(shares), color=GREY, linestyle=(0, (1, 2)), linewidth=1)
        ax.set_title(name, fontsize=8, loc="left", pad=2, parse_math=False)
    set_labels(axes[-1], "Days from the last picture" if timed else "Picture")
    set_labels(axes[len(axes) // 2], y="Share in the prediction")
    if lesions:
        from matplotlib.patches import Patch

        patches = [Patch(color=OKABE_ITO[1]), Patch(color=OKABE_ITO[0])]
        legend_below(
            figure, list(zip(patches, ("picture with a lesion", "picture without a lesion"), strict=True)), columns=2
        )
    return finish(figure, axes, 5.2, ROW, title)

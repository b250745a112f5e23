"""Whether all text of a figure can be read."""

import itertools

from matplotlib.text import Text


def shown_texts(figure):
    """Every text that is drawn, with its extent in pixels."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    outside = labels_outside(figure)
    boxes = [(text, text.get_window_extent(renderer)) for text in texts if text not in outside]
    return [(text, box) for text, box in boxes if box.width > 0]


def labels_outside(figure):
    """The tick labels that matplotlib keeps and does not draw: outside the axis's limits, or the axes are off."""
    outside = set()
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        slack = 1e-9 * (high - low)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not axis.axes.axison or not low - slack <= tick.get_loc() <= high + slack:
                outside |= {tick.label1, tick.label2}
    return outside


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def assert_readable(figure):
    """All text lies within the figure, and no text, legend or title covers another."""
    texts = shown_texts(figure)
    outer = figure.bbox
    for text, box in texts:
        inside = outer.x0 <= box.x0 and box.x1 <= outer.x1 and outer.y0 <= box.y0 and box.y1 <= outer.y1
        assert inside, f"clipped: {text.get_text()!r}"
        assert text.get_fontsize() >= 8
    for (one, a), (two, b) in itertools.combinations(texts, 2):
        width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(width, height) <= 0.5, f"{one.get_text()!r} covers {two.get_text()!r}"
    renderer = figure.canvas.get_renderer()
    for legend in figure.legends:
        legend_top = legend.get_window_extent(renderer).y1
        assert all(ax.get_tightbbox(renderer).y0 >= legend_top for ax in figure.axes)

"""Drawing of a flow: a bar per stage, from top to bottom, parted by where things stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.panels import Flow
from .palette import COLOURS, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = {"as it came": "c6", "flagged": "c2", "purified": "c1", "relabelled": "c3", "dropped": "line"}
OTHERS = ("c4", "c5")
STAGE = 0.62  # inches per stage
BAR, LEAST = 0.3, 0.012  # height of a bar in stages; width of the smallest part in bars, so that it can be seen
NAME, LINE = 30, 58  # characters of the name of a stage, and of a line with what is said of it


def height_of_flow(panel: Flow) -> float:
    """Return the height of the drawing without legend, in inches."""
    return STAGE * max(1, len(panel.stages))


def parts_of(panel: Flow) -> list[str]:
    """Return the names of the parts that hold anything, in the order of the bars."""
    held = dict.fromkeys(name for stage in panel.stages for name, count in stage.parts.items() if count)
    return [*(name for name in PARTS if name in held), *(name for name in held if name not in PARTS)]


def draw_flow(panel: Flow, axes: Axes) -> list[Any]:
    """Draw *panel*, and return a handle per part for the legend."""
    from matplotlib.patches import Polygon, Rectangle  # noqa: PLC0415

    names = parts_of(panel)
    colours = {name: COLOURS[PARTS.get(name, OTHERS[place % len(OTHERS)])] for place, name in enumerate(names)}
    below: tuple[float, float] | None = None  # end of what is left in the bar above, and its lower edge
    for number, stage in enumerate(panel.stages):
        widths = _widths([stage.parts.get(name, 0) for name in names])
        left = sum(width for name, width in zip(names, widths, strict=True) if name != "dropped")
        top = number + 1 - BAR - 0.08
        if below is not None:
            corners = [(0, below[1]), (below[0], below[1]), (left, top), (0, top)]
            axes.add_patch(Polygon(corners, closed=True, color=COLOURS["line"], alpha=0.35, linewidth=0, zorder=1))
        start = 0.0
        for name, width in zip(names, widths, strict=True):
            if width:
                axes.add_patch(Rectangle((start, top), width, BAR, color=colours[name], linewidth=0, zorder=2))
            start += width
        name = short(stage.name, NAME)
        said = short(stage.said, LINE - len(name))
        axes.text(0, top - 0.08, name, ha="left", va="bottom", color=COLOURS["ink"], zorder=3)
        axes.text(1, top - 0.08, said, ha="right", va="bottom", color=COLOURS["ink"], fontsize=9, zorder=3)
        below = (left, top + BAR)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(panel.stages), 0)
    axes.set_axis_off()
    return [Rectangle((0, 0), 1, 1, color=colours[name]) for name in names]


def _widths(counts: list[int]) -> list[float]:
    """Return the widths of the parts, with the sum 1; small ones are widened at the cost of the largest."""
    total = sum(counts) or 1
    widths = [max(LEAST, count / total) if count else 0.0 for count in counts]
    if any(widths):
        widths[widths.index(max(widths))] -= sum(widths) - 1
    return widths

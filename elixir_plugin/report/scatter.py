"""Points in a plane: words beside them, or one frame for each word, with the same axes, where words recur.

Colour and shape both tell the series, so that either alone will do, also where points lie on each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..core.panels import Points
from ..io.text import escape_control
from .palette import COLOURS, colours_of, logarithmic, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing
    from matplotlib.lines import Line2D

SHAPES = ("o", "s", "^", "D", "v", "P", "X")  # seven: with six colours, no two of 42 series look the same
FRAME, TITLE, GAP = 1.45, 0.24, 0.3  # inches of a frame among several, of the words above it, and between frames
SIZE, STEP, NEAR = 6.0, 5.0, 4.0  # of a point, of each around it, and how near points share a place; 72 to the inch
DEEP = 5  # shapes around a point; with more, the outer ones would hide their neighbours
NARROW, WIDE = 20, 48  # letters above one of two frames side by side, and above one as wide as the figure


def frame_names(panel: Points) -> list[str]:
    """Return what stands above each frame; a single empty name where words stand beside the points.

    >>> from elixir_plugin.core.panels import Series
    >>> series = [Series(name=name, x=[0, 1], y=[0, 1], labels=["badnets", "blended"]) for name in ("d3", "eclipse")]
    >>> frame_names(Points(title="t", series=series, frames=True)), frame_names(Points(title="t", series=series))
    (['badnets', 'blended'], [''])
    """
    labels = [label for series in panel.series for label in series.labels] if panel.frames else []
    return list(dict.fromkeys(labels)) or [""]


def height_of_frames(panel: Points, alone: float) -> float:
    """Return the inches that all frames take with the words above them; *alone* is that of a single frame."""
    names = frame_names(panel)
    rows = -(-len(names) // _columns(names))
    return rows * (_frame_height(names, alone) + _title_height(names)) + (rows - 1) * GAP


def add_frames(drawing: Drawing, panel: Points, box: tuple[float, float, float, float]) -> list[Axes]:
    """Add a frame per name, left to right and downwards, all with the same axes.

    :param box: left, bottom, width and height of all of them, in inches.
    """
    names = frame_names(panel)
    columns = _columns(names)
    rows = -(-len(names) // columns)
    left, bottom, width, height = box
    whole_width, whole_height = drawing.get_size_inches()
    wide = (width - (columns - 1) * GAP) / columns
    step = (height + GAP) / rows
    high = step - GAP - _title_height(names)
    frames: list[Axes] = []
    for number, name in enumerate(names):
        row, column = divmod(number, columns)
        x, y = left + column * (wide + GAP), bottom + (rows - 1 - row) * step
        first = frames[0] if frames else None
        area = (x / whole_width, y / whole_height, wide / whole_width, high / whole_height)
        axes = drawing.add_axes(area, sharex=first, sharey=first)
        last = number + columns >= len(names)
        axes.tick_params(labelleft=column == 0, labelbottom=last)
        axes.set_xlabel(escape_control(panel.x_label) if last else "")
        axes.set_ylabel(escape_control(panel.y_label) if column == 0 else "")
        axes.set_title(short(name, NARROW if columns > 1 else WIDE), loc="left", fontsize=9.5)
        frames.append(axes)
    return frames


def above_frames(panel: Points, alone: float) -> float:
    """Return where the legend begins, as a share of the height of the first frame; *alone* as above."""
    names = frame_names(panel)
    return 1 + _title_height(names) / _frame_height(names, alone)


def draw_points(panel: Points, frames: Sequence[Axes]) -> list[Any]:
    """Draw the points of each frame; return what stands for each series in a legend."""
    names = frame_names(panel)
    handles: list[Any] = []
    drawn: list[list[Line2D]] = [[] for _ in frames]
    colours = colours_of([series.name for series in panel.series])
    for number, (series, colour) in enumerate(zip(panel.series, colours, strict=True)):
        look: dict[str, Any] = {
            "linestyle": "none",
            "marker": SHAPES[number % len(SHAPES)],
            "markersize": SIZE,
            "markerfacecolor": (colour, 0.2),  # what lies below still shows
            "markeredgecolor": colour,
            "markeredgewidth": 1.4,
        }
        handles += frames[0].plot([], [], **look)
        for row, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
            at = names.index(series.labels[row]) if len(names) > 1 else 0
            if x is not None and y is not None:
                drawn[at] += frames[at].plot([x], [y], clip_on=False, zorder=3, **look)
    _set_scales(panel, frames)
    if any(series.labels for series in panel.series):  # a cloud without names is read as a whole
        for axes, lines in zip(frames, drawn, strict=True):
            _nest(lines, axes)
    if not panel.frames:
        _name_points(panel, frames[0])
    return handles


def _nest(lines: Sequence[Line2D], axes: Axes) -> None:
    """Draw points that lie on each other as shapes within shapes, the last of them innermost."""
    heaps: list[tuple[Any, list[Line2D]]] = []
    for line in lines:
        place = axes.transData.transform(line.get_xydata())[0] * 72 / axes.figure.dpi
        for first, heap in heaps:
            if max(abs(place - first)) < NEAR:
                heap.append(line)
                break
        else:
            heaps.append((place, [line]))
    for _, heap in heaps:
        for outwards, line in enumerate(reversed(heap)):
            line.set(markersize=SIZE + STEP * min(outwards, DEEP), zorder=3 - 0.01 * outwards)
            if outwards:
                line.set_markerfacecolor("none")


def _set_scales(panel: Points, frames: Sequence[Axes]) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    across = [value for series in panel.series for value in series.x if value is not None]
    axes, several = frames[0], len(frames) > 1
    if panel.log_x and across and min(across) > 0:
        for each in frames:
            logarithmic(each, "x", across)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4 if several else 8, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(4 if several else 6, steps=[1, 2, 2.5, 5, 10]))
    axes.autoscale_view()  # now: where points lie on paper is looked at next


def _name_points(panel: Points, axes: Axes) -> None:
    """Write the labels: towards the middle, so that none leaves the figure."""
    left, right = axes.transAxes.transform([(0, 0), (1, 0)])[:, 0]
    for series in panel.series:
        for x, y, label in zip(series.x, series.y, series.labels, strict=False):
            if x is not None and y is not None:
                beyond = axes.transData.transform((x, y))[0] > (left + right) / 2
                axes.annotate(
                    short(label, WIDE // 2), (x, y), (-7 if beyond else 7, 4), textcoords="offset points",
                    ha="right" if beyond else "left", fontsize=9, color=COLOURS["muted"],
                )  # fmt: skip


def _columns(names: Sequence[str]) -> int:
    return 2 if len(names) > 1 and max(len(escape_control(name)) for name in names) <= NARROW else 1


def _frame_height(names: Sequence[str], alone: float) -> float:
    return alone if len(names) == 1 else FRAME


def _title_height(names: Sequence[str]) -> float:
    return TITLE if any(names) else 0.0

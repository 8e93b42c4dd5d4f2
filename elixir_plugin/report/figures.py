"""Figures of panels: the same drawing as inline SVG, whose colours follow the page, and as PNG.

matplotlib draws with the colours of the light theme. In the SVG each of them becomes a CSS variable of the page, and
text stays text in the page's font, so that a figure is readable in light and dark and can be searched and copied.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.panels import Bars, Figure, Flow, Histogram, Level, Lines, Matrix, Points
from ..errors import RunError
from ..io.text import escape_control
from .flow import draw_flow, height_of_flow, parts_of
from .palette import COLOURS, SERIES, SETTINGS, colours_of, logarithmic, short
from .scatter import above_frames, add_frames, draw_points, height_of_frames

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

STYLES = ("-", "--", ":", "-.")  # when colours run out, and for those who cannot tell them apart
LEVELS = ((0, (5, 3)), (0, (1.5, 2)), (0, (5, 2, 1.5, 2)))  # dashes of thresholds
WIDTH, HEIGHT = 4.9, 2.3  # inches of 72 units, of figure and data: as wide as a phone's page, to keep the size of text
STRIP = 0.28  # inches above, for the title of the PNG
MANY_CELLS = 12  # a heat map with more rows has no numbers in its cells
MANY_LABELS = 14  # more labels of bars are thinned


@dataclass(frozen=True)
class Drawn:
    """A figure.

    :param svg: an ``<svg>`` element for a page; its ids start with the name of the figure.
    :param png: the bytes of a PNG file, on white, with the title above; empty when none was asked for.
    """

    svg: str
    png: bytes


def draw(panel: Figure, name: str, *, png: bool = True) -> Drawn:
    """Draw *panel*.

    :param name: letters, digits and hyphens; unique on its page.
    """
    with _quiet_style():
        drawing, axes = _canvas(panel)
        _draw(panel, axes)
        return Drawn(_svg(drawing, panel, name), _png(drawing, panel) if png else b"")


def _matplotlib() -> Any:
    """Return matplotlib, which says at its import where its caches go when the home folder cannot be written.

    :raises RunError: when neither that folder nor a temporary one can be written.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import matplotlib as mpl  # noqa: PLC0415  (slow, and most commands draw nothing)
        import matplotlib.figure  # noqa: PLC0415  (which builds the cache of fonts)
    except OSError as error:
        raise RunError(
            "figures cannot be drawn",
            where="matplotlib",
            found=str(error),
            hint="set MPLCONFIGDIR or TMPDIR to a folder that can be written, then run it again",
        ) from None
    finally:
        logger.setLevel(level)
    return mpl


@contextmanager
def _quiet_style() -> Iterator[None]:
    mpl = _matplotlib()
    with warnings.catch_warnings(), mpl.rc_context(SETTINGS):
        warnings.simplefilter("ignore")  # a character without a glyph is drawn as a box, which says enough
        yield


def _canvas(panel: Figure) -> tuple[Drawing, list[Axes]]:
    """Return an empty figure with fixed margins, in inches; never through pyplot, which belongs to the host.

    :returns: it, and its axes: one, or one per frame of points.
    """
    from matplotlib.figure import Figure as Drawing  # noqa: PLC0415

    names = _legend(panel)
    rows = -(-len(names) // _columns(names)) if names else 0
    left, right, bottom, top = 0.72, 0.14, 0.5, STRIP + 0.12 + 0.2 * rows
    height = HEIGHT
    if isinstance(panel, Points):
        height = height_of_frames(panel, HEIGHT)
    elif isinstance(panel, Matrix):
        left = 0.45 + 0.075 * max((len(short(row)) for row in panel.rows), default=1)
        height = min(WIDTH, 0.36 * max(3, len(panel.rows)))
    elif isinstance(panel, Flow):
        left, right, bottom, height = 0.06, 0.06, 0.08, height_of_flow(panel)
    elif isinstance(panel, Bars) and _long(panel.labels):
        bottom = 0.95
    whole = bottom + height + top
    drawing = Drawing(figsize=(WIDTH, whole))
    if isinstance(panel, Points):
        return drawing, add_frames(drawing, panel, (left, bottom, WIDTH - left - right, height))
    area = (left / WIDTH, bottom / whole, (WIDTH - left - right) / WIDTH, height / whole)
    return drawing, [drawing.add_axes(area)]


def _draw(panel: Figure, frames: list[Axes]) -> None:
    axes, start = frames[0], 1.0
    handles: list[Any]
    if isinstance(panel, Points):
        handles, start = draw_points(panel, frames), above_frames(panel, HEIGHT)
    elif isinstance(panel, Matrix):
        handles = _matrix(panel, axes)
    elif isinstance(panel, Histogram):
        handles = _histogram(panel, axes)
    elif isinstance(panel, Bars):
        handles = _bars(panel, axes)
    elif isinstance(panel, Flow):
        handles = draw_flow(panel, axes)
    else:
        handles = _lines(panel, axes)
    if not isinstance(panel, Matrix | Flow):
        handles += _levels(panel.levels, frames, upright=isinstance(panel, Histogram))
    names = _legend(panel)
    if names:
        axes.legend(
            handles, names, loc="lower left", bbox_to_anchor=(0, start), ncols=_columns(names), borderaxespad=0.2,
            handlelength=1.6, columnspacing=1.2,
        )  # fmt: skip


def _legend(panel: Figure) -> list[str]:
    """Return the words of the legend; empty where one line or group speaks for itself."""
    if isinstance(panel, Matrix):
        return []
    if isinstance(panel, Flow):
        return parts_of(panel)
    if isinstance(panel, Histogram):
        names = [f"{name} ({sum(counts):,})" for name, counts in panel.counts.items()]
    elif isinstance(panel, Bars):
        names = list(panel.values)
    else:
        names = [series.name for series in panel.series]
    names += [level.name for level in panel.levels]
    return [short(name, 32) for name in names] if len(names) > 1 else []


def _lines(panel: Lines, axes: Axes) -> list[Any]:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    handles: list[Any] = []
    colours = colours_of([series.name for series in panel.series])
    for number, (series, colour) in enumerate(zip(panel.series, colours, strict=True)):
        x, y = ([float("nan") if value is None else value for value in values] for values in (series.x, series.y))
        if series.mark:
            handles += axes.plot(x, y, "o", color=colour, clip_on=False, zorder=3)
        else:
            style = STYLES[number // len(SERIES) % len(STYLES)]
            dots = "o" if sum(value is not None for value in series.y) == 1 else ""
            handles += axes.plot(x, y, style, marker=dots, color=colour)
    heights = [value for series in panel.series for value in series.y if value and value > 0]
    if panel.log_y and heights:
        logarithmic(axes, "y", heights)
    if all(value == int(value) for series in panel.series for value in series.x if value is not None):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _axis_labels(panel.x_label, panel.y_label, axes)
    return handles


def _bars(panel: Bars, axes: Axes) -> list[Any]:
    handles: list[Any] = []
    width = 0.8 / max(1, len(panel.values))
    colours = colours_of(list(panel.values))
    for number, values in enumerate(panel.values.values()):
        at = [row - 0.4 + width * (number + 0.5) for row in range(len(panel.labels))]
        heights = [0.0 if value is None else value for value in values]
        handles.append(axes.bar(at, heights, width * 0.92, color=colours[number]))
    step = -(-len(panel.labels) // MANY_LABELS)
    rows = range(0, len(panel.labels), max(1, step))
    long = _long(panel.labels)
    axes.set_xticks(list(rows), [short(panel.labels[row]) for row in rows], rotation=30 if long else 0,
                    ha="right" if long else "center")  # fmt: skip
    axes.grid(visible=False, axis="x")
    axes.axhline(0, color=COLOURS["muted"], linewidth=0.7)
    _axis_labels(panel.x_label, panel.y_label, axes)
    return handles


def _histogram(panel: Histogram, axes: Axes) -> list[Any]:
    handles: list[Any] = []
    for counts, colour in zip(panel.counts.values(), colours_of(list(panel.counts)), strict=True):
        total = sum(counts)
        share = [count / total if total else 0.0 for count in counts]
        axes.stairs(share, panel.edges, fill=True, color=colour, alpha=0.3)
        handles.append(axes.stairs(share, panel.edges, color=colour, linewidth=1.6))
    _axis_labels(panel.x_label, "share of its group", axes)
    return handles


def _matrix(panel: Matrix, axes: Axes) -> list[Any]:
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    finite = [value for row in panel.values for value in row if value is not None]
    largest = max(finite, default=0) or 1
    for i, row in enumerate(panel.values):
        for j, value in enumerate(row):
            if value:
                strength = 0.08 + 0.72 * max(0.0, value / largest) ** 0.6  # faint cells stay visible
                axes.add_patch(Rectangle((j - 0.48, i - 0.48), 0.96, 0.96, color=COLOURS["c1"], alpha=strength))
            if len(panel.rows) <= MANY_CELLS and value:
                text = f"{value:,.0f}" if value == int(value) else f"{value:.2g}"
                axes.text(j, i, text, ha="center", va="center", fontsize=8.5)
    for axis, names in ((axes.xaxis, panel.columns), (axes.yaxis, panel.rows)):
        step = max(1, -(-len(names) // (2 * MANY_LABELS)))
        places = list(range(0, len(names), step))
        axis.set_ticks(places, [short(names[place]) for place in places])
    axes.set_xlim(-0.5, len(panel.columns) - 0.5)
    axes.set_ylim(len(panel.rows) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    _axis_labels(panel.x_label, panel.y_label, axes)
    return []


def _levels(levels: Sequence[Level], frames: Sequence[Axes], *, upright: bool) -> list[Any]:
    """Draw *levels* across all frames; return one line of each."""
    handles: list[Any] = []
    for number, level in enumerate(levels):
        style: dict[str, Any] = {"color": COLOURS["ink"], "linewidth": 1.0, "linestyle": LEVELS[number % len(LEVELS)]}
        lines = [(axes.axvline if upright else axes.axhline)(level.value, **style) for axes in frames]
        handles.append(lines[0])
    return handles


def _axis_labels(x: str, y: str, axes: Axes) -> None:
    axes.set_xlabel(escape_control(x))
    axes.set_ylabel(escape_control(y))


def _long(labels: Sequence[str]) -> bool:
    """Return whether labels of bars must be turned to fit."""
    return max((len(label) for label in labels), default=0) > 4


def _columns(names: Sequence[str]) -> int:
    """Return how many columns of a legend fit beside each other."""
    return max(1, min(len(names), 54 // (max(len(name) for name in names) + 6)))


def _svg(drawing: Drawing, panel: Figure, name: str) -> str:
    """Return the drawing as one ``<svg>`` element without ids of its own, fixed colours or fixed fonts."""
    from markupsafe import escape  # noqa: PLC0415

    buffer = io.StringIO()
    drawing.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(?<=\bid=")|(?<=href="#)|(?<=url\(#)', f"{name}-", text)
    for variable, colour in COLOURS.items():
        text = re.sub(rf"(?<=: ){colour}\b", f"var(--{variable})", text)
    text = re.sub(r"<style .*?</style>", "", text, flags=re.DOTALL)  # it would hold for the whole page
    text = re.sub(r" font-family: [^;\"]*;", "", text)  # that of the page
    alt = escape(escape_control(f"{panel.title}. {panel.caption}".strip()))
    width, height = 72 * drawing.get_size_inches()
    box = f"0 {72 * STRIP:g} {width:g} {height - 72 * STRIP:g}"  # without the strip of the title, which the page has
    opening = f'<svg role="img" aria-label="{alt}" viewBox="{box}" stroke-linejoin="round" stroke-linecap="butt">'
    return opening + text[text.index(">") + 1 :].rstrip()


def _png(drawing: Drawing, panel: Figure) -> bytes:
    height = drawing.get_size_inches()[1]
    drawing.text(0.02, 1 - 0.05 / height, short(panel.title, 60), fontsize=11, ha="left", va="top")
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()

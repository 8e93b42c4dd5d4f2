"""Figures of panels: the same drawing as inline SVG, whose colours follow the page, and as PNG.

matplotlib draws with the colours of the light theme. In the SVG each of them becomes a CSS variable of the page, and
text stays text in the page's font, so that a figure is readable in light and dark and can be searched and copied.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..panels import Bars, Figure, Histogram, Level, Lines, Matrix, Points, Series
from ..terminal import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

COLOURS = {  # name of the CSS variable -> colour of the light theme; templates/style.css has both themes
    "ink": "#1c2128",
    "muted": "#5c6570",
    "line": "#d9dee4",
    "c1": "#2468b2",
    "c2": "#cf5a1d",
    "c3": "#2a8a57",
    "c4": "#8757b5",
    "c5": "#a8861a",
    "c6": "#6d7782",
}
WARM = "c2"
SERIES = ("c1", "c2", "c3", "c4", "c5", "c6")
STYLES = ("-", "--", ":", "-.")  # when colours run out, and for those who cannot tell them apart
WIDTH, HEIGHT = 4.9, 3.0  # inches of 72 units: as wide as a phone's page, so that text keeps its size there
ALARMING = ("poison", "flagged", "suspicious")  # a group of this name gets the warm colour
MANY_CELLS = 12  # a heat map with more rows has no numbers in its cells
MANY_LABELS = 14  # more labels of bars are thinned
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "elixir_plugin",
    "text.parse_math": False,  # a "$" in a label is a dollar
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same everywhere
    "font.size": 10.0,
    "axes.unicode_minus": True,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["muted"],
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11.0,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.7,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "lines.linewidth": 1.8,
    "lines.markersize": 6.0,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}


class Drawn:
    """A figure, drawn once.

    :ivar svg: an ``<svg>`` element for a page; its ids start with *name*.
    :ivar png: the bytes of a PNG file, on white, with the title above.
    """

    def __init__(self, panel: Figure, name: str, *, png: bool = True) -> None:
        with _quiet_style():
            drawing, axes = _canvas(panel)
            _draw(panel, axes)
            self.svg = _svg(drawing, panel, name)
            self.png = _png(drawing, axes, panel) if png else b""


def draw(panel: Figure, name: str, *, png: bool = True) -> Drawn:
    """Draw *panel*; see :class:`Drawn`.

    :param name: letters, digits and hyphens; unique on its page.
    """
    return Drawn(panel, name, png=png)


@contextmanager
def _quiet_style() -> Iterator[None]:
    import matplotlib as mpl  # noqa: PLC0415  (slow, and most commands draw nothing)

    with warnings.catch_warnings(), mpl.rc_context(_SETTINGS):
        warnings.simplefilter("ignore")  # a character without a glyph is drawn as a box, which says enough
        yield


def _canvas(panel: Figure) -> tuple[Drawing, Axes]:
    """Return an empty figure; never through pyplot, which belongs to the host."""
    from matplotlib.figure import Figure as Drawing  # noqa: PLC0415

    height = HEIGHT
    if isinstance(panel, Matrix):
        height = min(WIDTH, 1.2 + 0.36 * max(3, len(panel.rows)))
    drawing = Drawing(figsize=(WIDTH, height), layout="constrained")
    return drawing, drawing.add_subplot()


def _draw(panel: Figure, axes: Axes) -> None:
    if isinstance(panel, Matrix):
        _matrix(panel, axes)
        return
    if isinstance(panel, Histogram):
        _histogram(panel, axes)
    elif isinstance(panel, Bars):
        _bars(panel, axes)
    else:
        _lines(panel, axes)
    for level in panel.levels:
        _level(level, axes, upright=isinstance(panel, Histogram))
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1 or (names and panel.levels):
        axes.legend(
            handles, names, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=_columns(names), borderaxespad=0.2,
            handlelength=1.6, columnspacing=1.2,
        )  # fmt: skip


def _lines(panel: Lines | Points, axes: Axes) -> None:
    colours = _colours([series.name for series in panel.series])
    for number, (series, colour) in enumerate(zip(panel.series, colours, strict=True)):
        x, y = ([float("nan") if value is None else value for value in values] for values in (series.x, series.y))
        if isinstance(panel, Points) or series.mark:
            axes.plot(x, y, "o", color=colour, label=shown(series.name), clip_on=False, zorder=3)
            _name_points(series, axes)
        else:
            style = STYLES[number // len(SERIES) % len(STYLES)]
            dots = "o" if sum(value is not None for value in series.y) == 1 else ""
            axes.plot(x, y, style, marker=dots, color=colour, label=shown(series.name))
    if isinstance(panel, Lines) and panel.log_y and any(value and value > 0 for s in panel.series for value in s.y):
        axes.set_yscale("log")
    if all(value == int(value) for series in panel.series for value in series.x if value is not None):
        axes.xaxis.get_major_locator().set_params(integer=True)
    _axis_labels(panel.x_label, panel.y_label, axes)


def _name_points(series: Series, axes: Axes) -> None:
    for x, y, label in zip(series.x, series.y, series.labels, strict=False):
        if x is not None and y is not None:
            axes.annotate(shown(label), (x, y), (6, 4), textcoords="offset points", fontsize=9, color=COLOURS["muted"])


def _bars(panel: Bars, axes: Axes) -> None:
    width = 0.8 / max(1, len(panel.values))
    colours = _colours(list(panel.values))
    for number, (name, values) in enumerate(panel.values.items()):
        at = [row - 0.4 + width * (number + 0.5) for row in range(len(panel.labels))]
        heights = [0.0 if value is None else value for value in values]
        axes.bar(at, heights, width * 0.92, color=colours[number], label=shown(name))
    step = -(-len(panel.labels) // MANY_LABELS)
    rows = range(0, len(panel.labels), max(1, step))
    long = max((len(label) for label in panel.labels), default=0) > 4
    axes.set_xticks(list(rows), [_short(panel.labels[row]) for row in rows], rotation=30 if long else 0,
                    ha="right" if long else "center")  # fmt: skip
    axes.grid(visible=False, axis="x")
    axes.axhline(0, color=COLOURS["muted"], linewidth=0.7)
    _axis_labels(panel.x_label, panel.y_label, axes)


def _histogram(panel: Histogram, axes: Axes) -> None:
    for (name, counts), colour in zip(panel.counts.items(), _colours(list(panel.counts)), strict=True):
        total = sum(counts)
        share = [count / total if total else 0.0 for count in counts]
        axes.stairs(share, panel.edges, fill=True, color=colour, alpha=0.3)
        axes.stairs(share, panel.edges, color=colour, linewidth=1.6, label=f"{shown(name)} ({total:,})")
    _axis_labels(panel.x_label, "share of its group", axes)


def _matrix(panel: Matrix, axes: Axes) -> None:
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
        axis.set_ticks(places, [_short(names[place]) for place in places])
    axes.set_xlim(-0.5, len(panel.columns) - 0.5)
    axes.set_ylim(len(panel.rows) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    _axis_labels(panel.x_label, panel.y_label, axes)


def _level(level: Level, axes: Axes, *, upright: bool) -> None:
    line = axes.axvline if upright else axes.axhline
    line(level.value, color=COLOURS["ink"], linewidth=1.0, linestyle=(0, (4, 3)), label=shown(level.name))


def _axis_labels(x: str, y: str, axes: Axes) -> None:
    axes.set_xlabel(shown(x))
    axes.set_ylabel(shown(y))


def _colours(names: Sequence[str]) -> list[str]:
    """Return a colour per name: the warm one for what alarms, the others in turn."""
    alarming = [name.split(" ", maxsplit=1)[0].lower() in ALARMING for name in names]
    others = [each for each in SERIES if each != WARM or not any(alarming)]
    calm = iter(range(len(names)))
    return [COLOURS[WARM if alarm else others[next(calm) % len(others)]] for alarm in alarming]


def _columns(names: Sequence[str]) -> int:
    """Return how many columns of a legend fit beside each other."""
    return max(1, min(len(names), 54 // (max(len(name) for name in names) + 6)))


def _short(label: str, limit: int = 12) -> str:
    label = shown(label)
    return label if len(label) <= limit else f"{label[: limit - 1]}…"


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
    alt = escape(shown(f"{panel.title}. {panel.caption}".strip()))
    head = re.search(r'viewBox="([^"]*)"', text)
    assert head is not None
    opening = f'<svg role="img" aria-label="{alt}" viewBox="{head[1]}" stroke-linejoin="round" stroke-linecap="butt">'
    return opening + text[text.index(">") + 1 :].rstrip()


def _png(drawing: Drawing, axes: Axes, panel: Figure) -> bytes:
    drawing.set_layout_engine("none")  # everything stays in its place
    drawing.suptitle(shown(panel.title), fontsize=11, x=0.01, y=1.01, ha="left", va="bottom")
    buffer = io.BytesIO()
    drawing.savefig(
        buffer, format="png", dpi=160, facecolor="white", bbox_inches="tight", pad_inches=0.12,
        metadata={"Software": None},
    )  # fmt: skip
    return buffer.getvalue()

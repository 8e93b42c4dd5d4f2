"""What all figures look like: colours, letters, and how long words and large ranges are made to fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..io.text import escape_control

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

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
ALARMING = ("poison", "flagged", "suspicious")  # a group of this name gets the warm colour
SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "elixir_plugin",
    "text.parse_math": False,  # a "$" in a label is a dollar
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same everywhere
    "font.size": 10.0,
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,  # it would stand where the legend does
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


def colours_of(names: Sequence[str]) -> list[str]:
    """Return a colour per name: the warm one for what alarms, the others in turn."""
    alarming = [name.split(" ", maxsplit=1)[0].lower() in ALARMING for name in names]
    others = [each for each in SERIES if each != WARM or not any(alarming)]
    calm = iter(range(len(names)))
    return [COLOURS[WARM if alarm else others[next(calm) % len(others)]] for alarm in alarming]


def short(label: str, limit: int = 12) -> str:
    """Return *label* fit for a figure: visible characters, *limit* of them at most."""
    label = escape_control(label)
    return label if len(label) <= limit else f"{label[: limit - 1]}…"


def logarithmic(axes: Axes, which: Literal["x", "y"], values: Sequence[float]) -> None:
    """Give an axis a logarithmic scale with plain numbers; those of matplotlib need its parser of formulas.

    :param values: what is drawn, all positive.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415

    axis: Axis
    if which == "x":
        axes.set_xscale("log")
        axis = axes.xaxis
    else:
        axes.set_yscale("log")
        axis = axes.yaxis
    ratio = max(values) / min(values)
    steps = (1, 2, 5) if ratio < 30 else (1, 3) if ratio < 1000 else (1,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())

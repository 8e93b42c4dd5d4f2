"""Pages from templates: one self-contained HTML file each, escaped throughout.

Everything a template prints goes through two gates: control characters and those that turn the direction of text
become visible text (:func:`elixir_plugin.io.text.escape_control`), then HTML is escaped. Only figures drawn here pass
as they are.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..core.panels import Panel, Table, Text
from ..io.text import escape_control
from .figures import draw

if TYPE_CHECKING:
    from jinja2 import Environment

KEEP = "\xa0"  # the one invisible character that is wanted: a space that keeps number and unit on one line
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class RenderedPanel:
    """A panel, ready for a template.

    :param svg: the figure, or None for tables and text.
    :param png: the same figure as the bytes of a PNG file.
    """

    panel: Panel
    name: str
    svg: Any = None
    png: bytes = b""


@cache
def environment() -> Environment:
    """Return the Jinja environment of all pages: ``base.html``, ``macros.html``, ``report.html``."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415  (slow)

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "percent": percent,
        "number": number,
        "points": points,
        "duration": duration,
        "picture_source": picture_source,
    }
    made.globals["version"] = __version__
    made.globals["css"] = _styles()
    return made


def render(template: str, **values: Any) -> str:
    """Return the page that *template* makes of *values*."""
    return environment().get_template(template).render(**values)


def prepare(panels: Iterable[Panel], prefix: str, *, png: bool = True) -> list[RenderedPanel]:
    """Draw *panels*; the name of each starts with *prefix* and is fit for an id and for a file.

    :param png: also make the PNG files.
    """
    made: list[RenderedPanel] = []
    for panel in panels:
        name = slug(f"{prefix}-{panel.title}")
        taken = {each.name for each in made}
        if name in taken:
            name = next(each for number in range(2, len(made) + 3) if (each := f"{name}-{number}") not in taken)
        if isinstance(panel, Table | Text):
            made.append(RenderedPanel(panel, name))
        else:
            drawn = draw(panel, name, png=png)
            made.append(RenderedPanel(panel, name, _safe(drawn.svg), drawn.png))
    return made


def slug(text: str) -> str:
    """Return *text* as lower-case letters, digits and hyphens, at most 60.

    >>> slug("scores-ROC <b>curve</b>")
    'scores-roc-b-curve-b'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "panel"


def percent(value: float | None) -> str:
    """Return a share in percent.

    >>> percent(0.4956).replace(KEEP, " "), percent(None)
    ('49.6 %', '–')
    """
    return "–" if value is None else f"{100 * value:.1f}{KEEP}%"


def points(value: float | None) -> str:
    """Return a difference of shares in points, with its sign.

    >>> points(-0.064)
    '−6.4'
    """
    return "–" if value is None else f"{100 * value:+.1f}".replace("-", "−")


def number(value: Any) -> str:
    """Return a cell of a table: numbers short, booleans as words, text as it is.

    >>> number(2000), number(0.98213), number(1.5e-9), number(True), number(None)
    ('2,000', '0.982', '1.5e-09', 'yes', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if isinstance(value, float):
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        return re.sub(r"^-", "−", text)
    return str(value)


def duration(seconds: float | None) -> str:
    """Return a time as people say it.

    >>> [duration(each).replace(KEEP, " ") for each in (0.42, 26.4, 754, 7300)]
    ['0.4 s', '26 s', '12 min 34 s', '2 h 2 min']
    """
    if seconds is None:
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f}{KEEP}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{KEEP}s"
    if whole < 3600:
        return f"{whole // 60}{KEEP}min {whole % 60}{KEEP}s"
    minutes = round(whole / 60)
    return f"{minutes // 60}{KEEP}h {minutes % 60}{KEEP}min"


def _visible(value: Any) -> Any:
    if type(value) is not str:  # Markup, too, passes as it is
        return value
    return KEEP.join(escape_control(part) for part in value.split(KEEP))


def _styles() -> Any:
    return _safe((TEMPLATES / "style.css").read_text(encoding="utf-8"))


def script(name: str) -> tuple[Any, str]:
    """Return a script of the templates for a page, and its digest, by which the page's policy lets it run."""
    text = (TEMPLATES / name).read_text(encoding="utf-8")
    return _safe(text), base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _safe(text: str) -> Any:
    """Mark *text* as HTML: only for what was made in this package, with everything foreign in it escaped."""
    from markupsafe import Markup  # noqa: PLC0415

    return Markup(text)  # noqa: S704


def picture_source(encoded: str) -> str:
    """Return the ``src`` of an embedded PNG.

    :param encoded: base64; anything else in it makes the image empty.
    """
    clean = encoded if re.fullmatch(r"[A-Za-z0-9+/=]*", encoded) else ""
    return f"data:image/png;base64,{clean}"

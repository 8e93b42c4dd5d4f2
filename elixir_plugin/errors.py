"""The errors a caller may meet: one root, so that ``except ElixirError`` catches all of them.

Every message answers the same five questions where they apply: what is wrong, where, what was found, what is
allowed, what to do next. What a reader is to give is marked in ``where``, ``allowed`` and ``hint``, because a caller in
Python gives it otherwise than a person at a command line:

- ``{setting:KEY=VALUE}`` of the defense, ``{retrain:KEY=VALUE}`` of the training on what it leaves;
- ``{option:KEY=VALUE}`` of the adapter that reads, ``{to_option:KEY=VALUE}`` of the one that writes;
- ``{argument:NAME}`` or ``{argument:NAME=VALUE}`` of the call;
- ``{command:WORDS}``: a command of ``elixir-plugin``, its flags as ``NAME=VALUE``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


REASON = 300  # characters of a reason that a table shows at most
MESSAGE = 1000  # characters of a message beyond which its parts are shortened further
MOST = {"what": 200, "where": 300, "found": 500, "allowed": 600, "next": 500}  # characters of each part
LEAST = {"found": 200, "allowed": 200, "where": 150, "next": 300}  # characters left of parts of a long message
ITEMS = 50  # of a container that are looked at for a message
MARK = re.compile(r"\{(setting|retrain|option|to_option|argument|command):([^{}]+)\}")
Spelling = Callable[[str, str], str]  # (kind of mark, its text) -> how to write it


def in_python(kind: str, text: str) -> str:
    """Spell a mark for a caller in Python.

    >>> in_python("setting", "denoiser=FOLDER"), in_python("option", "size=64"), in_python("argument", "out")
    ('denoiser=FOLDER', 'option size=64', 'out')
    """
    if kind == "command":
        return f"'elixir-plugin {' '.join(word for word in text.split() if '=' not in word)}'"
    prefix = {"option": "option ", "to_option": "option ", "retrain": "retrain "}.get(kind, "")
    return prefix + text


def spelled(value: Any, spell: Spelling = in_python) -> Any:
    """Return *value* with every mark in it spelled, where it is text.

    >>> spelled("name one: {setting:denoiser=FOLDER}")
    'name one: denoiser=FOLDER'
    """
    return MARK.sub(lambda found: spell(found[1], found[2]), value) if isinstance(value, str) else value


def escape_control(text: str) -> str:
    """Return *text* with control characters made visible, so that no input can drive the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


class _Marked:
    """Text that may hold marks; reads as it is spelled for Python."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = f"marked_{name}"

    def __get__(self, error: Any, owner: type | None = None) -> Any:
        return self if error is None else spelled(getattr(error, self.name))

    def __set__(self, error: Any, value: object) -> None:
        setattr(error, self.name, value)


class ElixirError(Exception):
    """Root of all errors raised on purpose.

    :param what: one clause that names the fault, e.g. ``"label out of range"``.
    :param where: file, setting or argument the fault sits in.
    :param found: the offending value.
    :param allowed: what would have been accepted.
    :param hint: the next step for the reader.

    ``str(error)`` and the attributes are spelled for Python; a command line writes its own flags with :meth:`told`.

    >>> print(ElixirError("label out of range", where="labels[3]", found=12, allowed="0..9"))
    label out of range
      where:   labels[3]
      found:   12
      allowed: 0..9
    """

    exit_code = 1
    where = _Marked()
    allowed = _Marked()
    hint = _Marked()

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        found: object = None,
        allowed: object = None,
        hint: str | None = None,
    ) -> None:
        self.what, self.where, self.found, self.allowed, self.hint = what, where, found, allowed, hint
        super().__init__(what)

    def __str__(self) -> str:
        return self.told(in_python)

    def told(self, spell: Spelling) -> str:
        """Return the whole message, with what the reader is to give as *spell* writes it."""
        marked = {name: getattr(self, f"marked_{name}") for name in ("where", "allowed", "hint")}
        where, allowed, hint = (spelled(value, spell) for value in marked.values())
        rows = {"what": self.what, "where": where, "found": self.found, "allowed": allowed, "next": hint}
        texts = {name: _visible(value, MOST[name]) for name, value in rows.items() if value is not None}
        for name, least in LEAST.items():
            excess = sum(map(len, texts.values())) - MESSAGE
            if name in texts and excess > 0:
                texts[name] = shown(texts[name], max(least, len(texts[name]) - excess))
        return "\n".join([texts.pop("what"), *(f"  {name + ':':<8} {text}" for name, text in texts.items())])


class SettingsError(ElixirError):
    """A setting, flag or run file is wrong; nothing was started."""

    exit_code = 2


class InputError(ElixirError):
    """A file or object handed in cannot be used: broken, hostile, inconsistent."""


class MissingNeedError(ElixirError):
    """A defense needs something the case does not hold (reserved clean set, model, …)."""


class PluginError(ElixirError):
    """A plugin could not be loaded, or asked for a name that is taken."""


class OutcomeError(ElixirError):
    """A defense returned something that breaks the rules for outcomes."""


class RunError(ElixirError):
    """A run folder is in the way, belongs to another run, or cannot be written."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return a "did you mean …?" hint, or None when nothing in *known* is close to *name*.

    >>> nearest("epoch", ["epochs", "lr"])
    "did you mean 'epochs'?"
    """
    matches = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {matches[0]!r}?" if matches else None


def reason_of(error: BaseException) -> str:
    """Return why something failed, in one line for a table.

    >>> reason_of(InputError("file not found", where="x.npz"))
    'file not found (where: x.npz)'
    """
    if isinstance(error, ElixirError):
        facts = {"where": error.where, "found": error.found, "allowed": error.allowed}
        text = "; ".join(f"{name}: {shown(value, REASON)}" for name, value in facts.items() if value is not None)
        said = f"{error.what} ({text})" if text else error.what
    else:
        said = f"{type(error).__name__}: {error}"
    said = " ".join(said.split())
    return said if len(said) <= REASON else said[: REASON - 1] + "…"


def shown(value: object, most: int = 200) -> str:
    """Return *value* as text of about *most* characters at most.

    Of a container, the first items are shown and how many there are; of other text, both ends.

    >>> shown(list(range(1000)), 30)
    '[0, 1, 2, 3, 4, …] (1,000 in all)'
    >>> shown("a" * 30 + "z" * 10, 19)
    'aaaaaaaaaaaa … zzzz'
    """
    if isinstance(value, list | tuple | set | frozenset | dict):
        return _shown_items(value, most)
    text = str(value)
    if len(text) <= most:
        return text
    head = max(1, (most - 3) * 3 // 4)
    return f"{text[:head].rstrip()} … {text[-max(1, most - 3 - head) :].lstrip()}"


def _visible(value: object, most: int) -> str:
    """Return *value* as part of a message: what comes from a file can neither drive a terminal nor add lines to it."""
    return escape_control(shown(value, most)).replace("\n", "\\n")


def _shown_items(value: list[Any] | tuple[Any, ...] | set[Any] | frozenset[Any] | dict[Any, Any], most: int) -> str:
    if len(value) <= ITEMS and len(text := str(value)) <= most:
        return text
    opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")") if isinstance(value, tuple) else ("{", "}")
    pairs = value.items() if isinstance(value, dict) else None
    items = map(repr, value) if pairs is None else (f"{key!r}: {item!r}" for key, item in pairs)
    taken: list[str] = []
    for item in islice(items, ITEMS):
        taken.append(shown(item, max(10, most // 2)))
        if sum(map(len, taken)) + 2 * len(taken) > most - 15 and len(taken) > 1:
            taken.pop()
            break
    if len(taken) == len(value):
        return f"{opening}{', '.join(taken)}{closing}"
    return f"{opening}{', '.join(taken)}, …{closing} ({len(value):,} in all)"


def preview_list(items: Sequence[object] | NDArray[Any], limit: int = 4) -> str:
    """Return the first of *items* for a message.

    >>> preview_list([1, 2, 3], limit=2)
    '1, 2, …'
    """
    return ", ".join(map(str, items[:limit])) + (", …" if len(items) > limit else "")

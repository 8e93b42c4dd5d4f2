"""The one parser of YAML: settings, run files, values on a command line. See :mod:`elixir_plugin.io.documents`.

PyYAML reads the text event by event. What is built from the events is ours, because PyYAML's own composer follows
aliases and levels without end, keeps the last of two equal keys, and turns text into dates.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..errors import InputError, SettingsError
from .documents import DEPTH, LARGEST, SMALLEST, checked_text, given_twice, not_64_bits, too_deep, too_many
from .opening import read_text

LIMIT = 2**20  # bytes of a file; PyYAML takes seconds for them
VALUES = 100_000  # with those that aliases stand for
_DIGITS = 100  # characters of a number
_TAG = "tag:yaml.org,2002:"
_OF_SCALARS = ("null", "bool", "int", "float", "str")


def read_yaml(path: Path) -> Any:
    """Read a YAML file in UTF-8.

    :raises SettingsError: when it is missing, no regular file, has more than :data:`LIMIT` bytes, cannot be read, or is
        refused by :func:`parse_yaml`.
    """
    try:
        text = read_text(path, LIMIT, "utf-8-sig")
    except FileNotFoundError:
        raise SettingsError("file not found", where=path) from None
    except InputError as error:
        found = f"{error.what}: {error.found}"
        raise SettingsError("file is not readable YAML", where=path, found=found, allowed=error.allowed) from None
    return parse_yaml(text, where=path)


def parse_yaml(text: str, *, where: object, what: str = "file is not readable YAML") -> Any:
    r"""Return what a YAML document stands for: None, booleans, numbers, text, lists, and mappings whose keys are text.

    Aliases and merge keys (``<<``) work; each use of an alias is a copy. Dates and numbers in base 60 are text.

    :param where: how to call it in a message.
    :param what: what the message says about text that is no YAML.
    :raises SettingsError: for other tags, keys that are no text or are given twice, whole numbers beyond 64 bits, text
        that cannot be written, an alias within what it stands for, more than :data:`DEPTH` levels or :data:`VALUES`
        values, several documents, and what is no YAML.

    >>> parse_yaml("base: &base {lr: 0.1, day: 2024-01-31}\nrun: {<<: *base, lr: 0.2}", where="a test")["run"]
    {'lr': 0.2, 'day': '2024-01-31'}
    """
    try:
        return _Composer(text, where).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = where if mark is None or "\n" not in text else f"{where}, line {mark.line + 1}"
        raise SettingsError(what, where=place, found=error.problem or error.context) from None
    except yaml.YAMLError as error:
        raise SettingsError(what, where=where, found=str(error).partition("\n")[0]) from None


class _Built(NamedTuple):
    """A value, of how many values it consists, and how many levels of lists and mappings it has."""

    value: Any
    size: int = 1
    levels: int = 0


class _Composer:
    """Builds the value of one document from PyYAML's events."""

    def __init__(self, text: str, where: object) -> None:
        self.loader: Any = yaml.SafeLoader(text)  # its methods carry no types
        self.where = where
        self.one_line = "\n" not in text
        self.anchors: dict[str, _Built | None] = {}  # None: what it stands for is not complete
        self.values = 0

    def document(self) -> Any:
        self.loader.get_event()
        if self.loader.check_event(yaml.StreamEndEvent):
            return None
        self.loader.get_event()
        value = self._node(0).value
        self.loader.get_event()
        if not self.loader.check_event(yaml.StreamEndEvent):
            raise self._refused(self.loader.get_event(), "more than one YAML document")
        return value

    def _node(self, depth: int) -> _Built:
        """Build the next value, which sits in *depth* lists and mappings."""
        event = self.loader.get_event()
        if isinstance(event, yaml.AliasEvent):
            built = self._alias(event)
            self._count(event, built.size)
            built = built._replace(value=copy.deepcopy(built.value))
        else:
            self._count(event, 1)
            if event.anchor in self.anchors:
                raise self._refused(event, "anchor is given twice", f"&{event.anchor}")
            if event.anchor is not None:
                self.anchors[event.anchor] = None
            built = _Built(self._scalar(event)) if isinstance(event, yaml.ScalarEvent) else self._group(event, depth)
            if event.anchor is not None:
                self.anchors[event.anchor] = built
        if depth + built.levels > DEPTH:
            raise too_deep(self._place(event), SettingsError)
        return built

    def _alias(self, event: yaml.AliasEvent) -> _Built:
        if event.anchor not in self.anchors:
            raise self._refused(
                event, "alias of nothing", f"*{event.anchor}", f"a name given before with &{event.anchor}"
            )
        built = self.anchors[event.anchor]
        if built is None:
            raise self._refused(event, "alias within what it stands for", f"*{event.anchor}")
        return built

    def _group(self, event: yaml.CollectionStartEvent, depth: int) -> _Built:
        """Build a list or mapping, whose first event has been read."""
        kind = "seq" if isinstance(event, yaml.SequenceStartEvent) else "map"
        if event.tag not in (None, "!", f"{_TAG}{kind}"):
            raise self._tag_refused(event)
        if depth >= DEPTH:  # before what is in it is read
            raise too_deep(self._place(event), SettingsError)
        return self._list(depth) if kind == "seq" else self._mapping(depth)

    def _list(self, depth: int) -> _Built:
        parts = []
        while not self.loader.check_event(yaml.SequenceEndEvent):
            parts.append(self._node(depth + 1))
        self.loader.get_event()
        return _group_of([part.value for part in parts], parts)

    def _mapping(self, depth: int) -> _Built:
        own: dict[str, Any] = {}
        merged: dict[str, Any] | None = None
        parts = []
        while not self.loader.check_event(yaml.MappingEndEvent):
            event = self.loader.peek_event()
            merge = isinstance(event, yaml.ScalarEvent) and event.implicit[0] and event.value == "<<"
            key = self._node(depth + 1)
            if not isinstance(key.value, str):
                hint = None if key.levels else "put the key in quotes"
                raise self._refused(event, "key is no text", key.value, hint=hint)
            if key.value in own or (merge and merged is not None):
                raise given_twice(self._place(event), key.value, SettingsError)
            value = self._node(depth + 1)
            parts += [key, value]
            if merge:
                merged = self._merged(event, value.value)
            else:
                own[key.value] = value.value
        self.loader.get_event()
        return _group_of({**(merged or {}), **own}, parts)

    def _merged(self, event: yaml.Event, value: Any) -> dict[str, Any]:
        """Return what the *value* of a merge key adds: of several mappings, the first that has a key decides on it."""
        found: dict[str, Any] = {}
        for each in reversed(value if isinstance(value, list) else [value]):
            if not isinstance(each, dict):
                raise self._refused(event, "<< merges mappings", type(each).__name__, "a mapping, or a list of them")
            found |= each
        return found

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        text = event.value
        if event.tag == "!":
            tag = "str"
        elif event.tag is not None:
            tag = event.tag.removeprefix(_TAG)
            if tag not in _OF_SCALARS or tag == event.tag:
                raise self._tag_refused(event)
        else:
            tag = self.loader.resolve(yaml.ScalarNode, text, event.implicit).removeprefix(_TAG)
            if tag not in _OF_SCALARS or (tag in ("int", "float") and ":" in text):
                tag = "str"
        if tag == "str":
            return checked_text(text, self._place(event), SettingsError)
        if tag in ("int", "float") and len(text) > _DIGITS:
            raise not_64_bits(f"a number of {len(text):,} characters", self._place(event), SettingsError)
        try:
            value = getattr(self.loader, f"construct_yaml_{tag}")(yaml.ScalarNode(f"{_TAG}{tag}", text))
        except (ValueError, KeyError, IndexError):
            raise self._refused(event, f"not of the type that !!{tag} says", text) from None
        if tag == "int" and not SMALLEST <= value <= LARGEST:
            raise not_64_bits(text, self._place(event), SettingsError)
        return value

    def _count(self, event: yaml.Event, values: int) -> None:
        self.values += values
        if self.values > VALUES:
            raise too_many(self._place(event), VALUES, SettingsError)

    def _tag_refused(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> SettingsError:
        allowed = ", ".join(f"!!{name}" for name in (*_OF_SCALARS, "seq", "map"))
        found = str(event.tag).replace(_TAG, "!!", 1)
        return self._refused(event, "YAML tag refused", found, allowed, hint="leave the tag out")

    def _refused(
        self, event: yaml.Event, what: str, found: object = None, allowed: object = None, hint: str | None = None
    ) -> SettingsError:
        return SettingsError(what, where=self._place(event), found=found, allowed=allowed, hint=hint)

    def _place(self, event: yaml.Event) -> str:
        mark = event.start_mark
        return str(self.where) if self.one_line or mark is None else f"{self.where}, line {mark.line + 1}"


def _group_of(value: Any, parts: list[_Built]) -> _Built:
    levels = 1 + max((part.levels for part in parts), default=0)
    return _Built(value, 1 + sum(part.size for part in parts), levels)

"""The parsers of JSON and of tables, each within stated budgets and with one clear error; YAML: ``yaml_text.py``.

A document of some bytes can stand for any number of values (a YAML alias repeats what it names), for more levels than
a program can follow, or for numbers that take minutes to print. And both formats let a file say one thing twice, where
the last one wins without a word. All of that is refused here, so that the readers only have to ask whether a document
says what they need.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import ElixirError, InputError
from .opening import TEXT_LIMIT, read_text
from .uncollected import uncollected

DEPTH = 64  # levels of lists and mappings in each other
VALUES = 5_000_000  # in a JSON file or a table; some hundred megabytes
SMALLEST, LARGEST = -(2**63), 2**64 - 1  # whole numbers: what arrays can hold
# U+DC80..U+DCFF stand for bytes of file names that are not UTF-8, see os.fsdecode, and become those bytes again
_UNWRITABLE = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")
_ESCAPED = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_ALIKE = bytes.maketrans(b"123456789E", b"000000000e")
_LARGE = (b"0" * 19, b"0e000", b"0e+000")  # in any number beyond 64 bits, and in any that is not finite, made alike
_LARGE_IN_BRIEF = re.compile(r"[0-9]{19}|[eE]\+?[0-9]{3}")  # the same; quicker on a few characters, slower on many
BRIEF = 2**16  # characters of JSON text that the garbage collector hardly notices
_COSTLY = ",:[{"  # there are no more values in JSON text than these characters, and one


def read_json(path: Path, limit: int = TEXT_LIMIT) -> Any:
    """Read a JSON file in UTF-8.

    :param limit: bytes it may have.
    :raises InputError: when it is missing, no regular file, too large, or refused by :func:`parse_json`.
    """
    try:
        text = read_text(path, limit, "utf-8-sig")
    except FileNotFoundError:
        raise InputError("file not found", where=path) from None
    return parse_json(text, where=path)


def parse_json(text: str, *, where: object) -> Any:
    """Return what JSON text stands for.

    Its whole numbers fit into 64 bits, the others are finite; its text holds no NUL, and surrogates only where they
    stand for bytes of a file name that is not UTF-8.

    :param where: how to call it in a message.
    :raises InputError: for other numbers or text, a key that is given twice, more than :data:`DEPTH` levels or
        :data:`VALUES` values, and what is not JSON.
    """
    if sum(map(text.count, _COSTLY)) >= VALUES:
        raise too_many(where, VALUES, InputError)
    if len(text) < BRIEF:
        return _parsed(text, where)
    with uncollected():
        return _parsed(text, where)


def _may_be_large(text: str) -> bool:
    """Whether a number in *text* may be beyond 64 bits or not finite."""
    if len(text) < BRIEF:
        return _LARGE_IN_BRIEF.search(text) is not None
    alike = text.encode("utf-8", "surrogatepass").translate(_ALIKE)
    return any(each in alike for each in _LARGE)


def _parsed(text: str, where: object) -> Any:
    def fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise given_twice(where, twice, InputError)
        for key, each in pairs if refused else ():
            if isinstance(each, InputError):
                each.where = f"{where}: {key}"
                raise each
        return found

    def whole(digits: str) -> int | InputError:
        try:
            return checked_whole(digits, where)
        except InputError as error:
            refused.append(error)
            return error

    def real(digits: str) -> float | InputError:
        if math.isfinite(value := float(digits)):
            return value
        refused.append(InputError("number is not finite", where=where, found=digits, allowed="finite numbers"))
        return refused[-1]

    refused: list[InputError] = []  # each also stands in place of its number until it is known under which key
    hooks: dict[str, Any] = {"object_pairs_hook": fields, "parse_constant": real}
    if _may_be_large(text):  # else Python's own parsers, which are faster, need no check
        hooks |= {"parse_int": whole, "parse_float": real}
    try:
        value = json.loads(text, **hooks)
    except RecursionError:
        raise too_deep(where, InputError) from None
    except ValueError as error:
        raise InputError("file is not JSON", where=where, found=str(error)) from None
    if refused:
        raise refused[0]
    with_text = _ESCAPED.search(text) is not None
    level = [value]
    for _ in range(DEPTH + 1):
        lists = [each for each in level if each.__class__ is list]
        dicts = [each for each in level if each.__class__ is dict]
        if with_text:
            for each in (*level, *chain.from_iterable(dicts)):
                if isinstance(each, str):
                    checked_text(each, where)
        if not lists and not dicts:
            return value
        level = [*chain.from_iterable(lists), *chain.from_iterable(map(dict.values, dicts))]
    raise too_deep(where, InputError)


def read_table(path: Path, delimiter: str = ",") -> Iterator[list[str]]:
    """Yield the rows of a table in CSV, all fields as text.

    :raises InputError: when it is missing, no regular file, too large, no text, or no table: a quote that is never
        closed, NUL, a field of more than 131,072 characters (the limit of :mod:`csv`), more than :data:`VALUES` fields.
    """
    try:
        text = read_text(path, encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError("file not found", where=path) from None
    if "\0" in text:
        raise InputError("table cannot be read", where=path, found="NUL characters", allowed="text in CSV")
    if text.count(delimiter) + text.count("\n") >= VALUES:
        raise too_many(path, VALUES, InputError)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        yield from rows
    except csv.Error as error:
        raise InputError(
            "table cannot be read", where=f"{path}:{rows.line_num}", found=str(error), allowed="text in CSV"
        ) from None


def checked_text(text: str, where: object, error: type[ElixirError] = InputError) -> str:
    """Return *text* where it can be handed to the system, as the name of a file can.

    :raises ElixirError: of class *error*, for NUL, and for surrogates that stand for no byte of a file name.
    """
    if _UNWRITABLE.search(text):
        raise error("text that cannot be written", where=where, found=repr(text), allowed="Unicode without NUL")
    return text


def checked_whole(digits: str, where: object, error: type[ElixirError] = InputError) -> int:
    """Return the whole number that decimal *digits*, perhaps after a sign, stand for.

    :raises ElixirError: of class *error*, when it does not fit into 64 bits.
    """
    if len(digits) > 100:  # to read or print very many takes time that grows with their square
        raise not_64_bits(f"a number of {len(digits):,} digits", where, error)
    value = int(digits)
    if not SMALLEST <= value <= LARGEST:
        raise not_64_bits(digits, where, error)
    return value


def not_64_bits(found: str, where: object, error: type[ElixirError]) -> ElixirError:
    """Return the error for a whole number that arrays cannot hold."""
    return error("whole number out of range", where=where, found=found, allowed="what fits into 64 bits")


def given_twice(where: object, key: str, error: type[ElixirError]) -> ElixirError:
    """Return the error for a *key* that a mapping has twice: one of its values would be lost."""
    return error("key is given twice", where=where, found=repr(key), hint="keep the one that is meant")


def too_deep(where: object, error: type[ElixirError]) -> ElixirError:
    """Return the error for lists and mappings in each other, beyond :data:`DEPTH` levels."""
    found = f"more than {DEPTH} levels of lists and mappings"
    return error("document is nested too deeply", where=where, found=found, allowed=f"{DEPTH} levels")


def too_many(where: object, most: int, error: type[ElixirError]) -> ElixirError:
    """Return the error for a document of more than *most* values."""
    found = f"more than {most:,} values"
    return error("document holds too much", where=where, found=found, allowed=f"{most:,} values")

"""What is read back from files of our own, held against a description: types, ranges, lengths, schema number.

A run folder may be damaged, edited, made by another version, or made by somebody to do harm. So nothing in it is
believed before it is checked here, and whatever is wrong with it is one clear error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ..errors import InputError, shown

T = TypeVar("T")
VALUE = 120  # characters of a refused value that a message shows
RUN_AGAIN = "remove it, and run the same command again"

# Python's own types would do, but pydantic takes True for 1 and "1" for 1 there.
Count = Annotated[int, Field(strict=True, ge=0, le=2**53)]
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=1 + 1e-9)]
Seconds = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=1e10)]
Flag = Annotated[bool, Field(strict=True)]


class Facts(BaseModel):
    """Base of descriptions; what they do not name is left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def checked(kind: type[T] | TypeAdapter[T], value: Any, *, what: str, where: object, hint: str | None = RUN_AGAIN) -> T:
    """Return *value* as *kind*, a class or what pydantic makes of a type.

    :param what: the error in a few words, e.g. ``"not the report of a run"``.
    :raises InputError: naming the first field that is missing, of another type or out of range.

    >>> checked(Facts, [], what="no facts", where="facts.json")
    Traceback (most recent call last):
    elixir_plugin.errors.InputError: no facts
      where:   facts.json
      found:   []
      allowed: a mapping
      next:    remove it, and run the same command again
    """
    adapter = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        found, allowed = f"no {place}", None
    else:
        given = fault["input"]
        said = shown(given if isinstance(given, list | tuple | dict) else repr(given), VALUE)
        found = f"{place} = {said}" if place else said
        allowed = fault["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        if fault["type"] in ("model_type", "dataclass_type", "dict_type"):
            allowed = "a mapping"
    raise InputError(what, where=where, found=found, allowed=allowed, hint=hint)


def refuse_newer(value: Any, latest: int, where: object) -> None:
    """Look at the schema number of what a file holds; files of earlier versions may have none.

    :raises InputError: for a later number than *latest*, and for what is no number.
    """
    schema = value.get("schema") if isinstance(value, Mapping) else None
    if schema is None:
        return
    if type(schema) is not int or schema < 1:
        raise InputError("schema number is none", where=where, found=schema, allowed=f"1 to {latest}", hint=RUN_AGAIN)
    if schema > latest:
        raise InputError(
            "written by a later version of elixir_plugin",
            where=where,
            found=f"schema {schema}",
            allowed=f"schema {latest} or earlier",
            hint="use that version, or choose another folder",
        )

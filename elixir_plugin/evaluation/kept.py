"""What an earlier attempt of a run, or another run, has measured: read back from its cache where it can be used."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from ..errors import InputError
from ..io.checked import checked
from ..io.opening import is_there
from ..io.reading import read_json

T = TypeVar("T")


def known(file: Path, kind: type[T] | TypeAdapter[T], what: str) -> T | None:
    """Return what *file* holds; None where there is nothing, or, with a warning, nothing that can be used.

    :param what: the error in a few words, e.g. ``"not the metrics of a model"``.
    """
    try:
        return checked(kind, read_json(file), what=what, where=file) if is_there(file) else None
    except InputError as error:
        logging.getLogger(__name__).warning("a damaged cache is made anew: %s", error)
        return None

"""What a chunk store holds and what made it: its geometry, and the manifest that keeps different settings apart."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core.settings import fingerprint
from ...errors import InputError, RunError, SettingsError
from ...io.files import to_json_types
from ...io.reading import read_json

FORMAT = 1
DTYPES = ("uint8", "float32")
START_OVER = "remove this folder to start over, or choose another"


@dataclass(frozen=True)
class Geometry:
    """Size of the output and of its chunks.

    :param length: number of samples ``N``.
    :param shape: of one sample's output.
    :param dtype: ``"uint8"`` or ``"float32"``.
    :param chunk: samples per chunk; the last one may be shorter.
    :raises SettingsError: when a number is out of range or the type is another.

    >>> g = Geometry(10, (2, 2), "uint8", 4)
    >>> g.count, g.part(2)
    (3, slice(8, 10, None))
    """

    length: int
    shape: tuple[int, ...]
    dtype: str
    chunk: int

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise SettingsError("type cannot be stored", where="dtype", found=self.dtype, allowed=", ".join(DTYPES))
        for name, values, lowest in (
            ("length", (self.length,), 0),
            ("shape", self.shape, 1),
            ("chunk", (self.chunk,), 1),
        ):
            if not all(type(value) is int and value >= lowest for value in values):
                raise SettingsError(
                    "not a size", where=name, found=getattr(self, name), allowed=f"integers from {lowest}"
                )

    @property
    def count(self) -> int:
        """Number of chunks."""
        return -(-self.length // self.chunk)

    def part(self, index: int) -> slice:
        """Return the positions of chunk *index*."""
        return slice(index * self.chunk, min((index + 1) * self.chunk, self.length))

    def share(self, rank: int, world: int) -> range:
        """Return the chunks of one rank: every *world*-th, so that what is left of a stopped run stays balanced."""
        if not 0 <= rank < world:
            raise SettingsError("no such rank", where="rank", found=rank, allowed=f"0..{world - 1}")
        return range(rank, self.count, world)

    @property
    def sample_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def header(self) -> bytes:
        """Return the first bytes of ``data.npy``."""
        head = io.BytesIO()
        facts = {
            "descr": np.dtype(self.dtype).newbyteorder("<").str,
            "fortran_order": False,
            "shape": (self.length, *self.shape),
        }
        np.lib.format.write_array_header_1_0(head, facts)
        return head.getvalue()


def make_manifest(geometry: Geometry, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``manifest.json``, in JSON types."""
    try:
        known = json.loads(json.dumps(to_json_types(identity), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError("identity is not plain JSON", where="identity", found=str(error)) from None
    return {
        "format": FORMAT,
        "geometry": json.loads(json.dumps(asdict(geometry))),
        "identity": known,
        "hash": fingerprint(known),
    }


def refuse_other(path: Path, wanted: Mapping[str, Any]) -> None:
    """Compare the manifest on disk with the *wanted* one.

    :raises RunError: when it is damaged, of another format, or names other settings: the first that differ are shown.
    """
    try:
        there = read_json(path)
    except FileNotFoundError:
        raise RunError("manifest is damaged", where=path, found="a link that leads nowhere", hint=START_OVER) from None
    except (InputError, RecursionError) as error:  # the latter: brackets without end
        raise RunError(
            "manifest is damaged", where=path, found=getattr(error, "found", None), hint=START_OVER
        ) from None
    if not isinstance(there, dict) or set(there) != set(wanted):
        raise RunError(
            "not the manifest of a chunk store", where=path, allowed=", ".join(wanted), hint="choose another folder"
        )
    if there["format"] != FORMAT:
        raise RunError(
            "store of another format", where=path, found=there["format"], allowed=f"format {FORMAT}", hint=START_OVER
        )
    if there["hash"] != fingerprint(there["identity"]):
        raise RunError("manifest is damaged: its hash does not fit", where=path, found=there["hash"], hint=START_OVER)
    if fingerprint(there) != fingerprint(wanted):
        old, new = (_leaves(each["identity"]) | _leaves(each["geometry"], "output") for each in (there, wanted))
        differing = [key for key in {**new, **old} if old.get(key) != new.get(key)]
        raise RunError(
            "folder belongs to other settings; they are not mixed",
            where=path.parent,
            found=_listing(old, differing),
            allowed=_listing(new, differing),
            hint=START_OVER,
        )


def _leaves(value: Any, name: str = "") -> dict[str, str]:
    """Flatten nested JSON to dotted names and JSON text, which distinguishes 1, 1.0 and true.

    >>> _leaves({"level": {"steps": 3}, "clip": True})
    {'level.steps': '3', 'clip': 'true'}
    """
    if isinstance(value, dict) and value:
        pairs = (_leaves(item, f"{name}.{key}" if name else str(key)) for key, item in value.items())
        return {key: text for each in pairs for key, text in each.items()}
    return {name: json.dumps(value, sort_keys=True)}


def _listing(values: Mapping[str, str], keys: list[str], limit: int = 4) -> str:
    rows = [f"{key} = {values.get(key, '(absent)')[:80]}" for key in keys[:limit]]
    return "; ".join(rows) + (f"; … {len(keys) - limit} more" if len(keys) > limit else "")

"""Weights of a denoiser folder: in one file, in shards that an index lists, or as a variant such as ``fp16``.

Which file is read is decided by name, and told where another one could have been meant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...errors import InputError, preview_list
from ...io.opening import is_there
from ...io.pickles import holds_all
from ...io.reading import read_json, read_tensors, read_torch

STEM = "diffusion_pytorch_model"
WEIGHTS = (f"{STEM}.safetensors", f"{STEM}.bin")
KINDS = ("safetensors", "bin")  # the first one found is read
_VARIANT = r"(?:\.(?P<variant>[A-Za-z][\w.]*))?"
_WHOLE = re.compile(rf"{STEM}{_VARIANT}\.(?P<kind>safetensors|bin)")
_INDEX = re.compile(rf"{STEM}\.(?P<kind>safetensors|bin)\.index{_VARIANT}\.json")
_SHARD = re.compile(r"[A-Za-z0-9][\w.-]*\.(?P<kind>safetensors|bin)")
_NUMBERED = re.compile(rf"{STEM}.*-\d+-of-\d+.*")


@dataclass(frozen=True)
class Weights:
    """Where weights are.

    :param path: their file, or the index of their shards.
    :param variant: what the name says beside the usual, e.g. ``fp16``; else empty.
    :param left_out: weights beside them that are not read.
    """

    path: Path
    variant: str = ""
    left_out: tuple[Path, ...] = ()

    @property
    def sharded(self) -> bool:
        """Whether they lie in several files."""
        return self.path.suffix == ".json"

    def notes(self) -> list[str]:
        """Return what a reader must know about the choice."""
        place = f"{self.path.parent.name}/{self.path.name}"
        if self.left_out:
            others = preview_list([each.name for each in self.left_out])
            return [f"the denoiser's weights are those of {place}; beside it, and not read: {others}"]
        if self.variant:
            return [
                f"the denoiser's weights are those of {place} (variant {self.variant}), the only ones there; they are "
                "computed with in float32"
            ]
        return []

    def read(self) -> tuple[dict[str, Tensor], int]:
        """Return all weights by name, and the bytes of their files.

        :raises InputError: when a file is damaged or missing, or the shards do not fit together.
        """
        if not self.sharded:
            return read_weights(self.path), self.path.stat().st_size
        return _read_shards(self.path)


def find_weights(folder: Path) -> Weights | None:
    """Return which weights of *folder* are read; None where there are none.

    Those without a variant in their name come first, then the only variant there is.

    :raises InputError: when there are several variants and nothing says which is meant, or shards without an index.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        match = _WHOLE.fullmatch(path.name) or _INDEX.fullmatch(path.name)
        if match and is_there(path):
            found.setdefault(match["variant"] or "", []).append(path)
    if not found:
        _refuse_loose_shards(folder)
        return None
    if "" not in found and len(found) > 1:
        raise InputError(
            "several variants of the weights, and none that is the usual one",
            where=folder,
            found=", ".join(path.name for paths in found.values() for path in paths),
            allowed=f"{WEIGHTS[0]}, or one variant",
            hint="leave one of them in the folder, and move the others elsewhere",
        )
    variant = "" if "" in found else next(iter(found))
    chosen = min(found.pop(variant), key=_preference)
    return Weights(chosen, variant, tuple(path for paths in found.values() for path in paths))


def _preference(path: Path) -> tuple[int, bool]:
    return next(place for place, kind in enumerate(KINDS) if f".{kind}" in path.name), path.suffix == ".json"


def _refuse_loose_shards(folder: Path) -> None:
    shards = sorted(path.name for path in folder.iterdir() if _NUMBERED.fullmatch(path.name))
    if shards:
        raise InputError(
            "shards of weights without their index",
            where=folder,
            found=preview_list(shards),
            allowed=f"{WEIGHTS[0]}.index.json beside them, which says what each shard holds",
            hint="copy the index from where the shards come from",
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a weight file: safetensors, or a torch file that holds tensors and no more.

    :raises InputError: when it is damaged, asks for anything that is not plain data, or holds a tensor that is not
        dense or larger than its memory.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path)
    state = read_torch(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        found = type(state).__name__
        if isinstance(state, dict):
            found = f"a dict of {preview_list([str(key) for key in state])}"
        raise InputError("not a state dict", where=path, found=found, allowed="names -> tensors")
    odd = [str(name) for name, value in state.items() if not holds_all(value)]
    if odd:
        raise InputError("weights are not plain numbers", where=path, found=preview_list(odd), allowed="dense tensors")
    return {str(name): value for name, value in state.items()}


def weights_digest(digest: Any, network: nn.Module) -> str:
    """Return 12 hex digits over *network*'s weights and what went into *digest*, a hash of ``hashlib``, before."""
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return str(digest.hexdigest()[:12])


def _read_shards(index: Path) -> tuple[dict[str, Tensor], int]:
    """Return the tensors of all shards of *index*, and the bytes of their files."""
    places = _read_index(index)
    files = {name: index.parent / name for name in sorted(set(places.values()))}
    missing = [name for name, path in files.items() if not is_there(path)]
    if missing:
        raise InputError(
            "a shard of the weights is missing",
            where=index,
            found=f"not there: {preview_list(missing)}",
            allowed=f"all {len(files)} shards beside the index",
            hint="a copy or download may have stopped halfway: fetch the missing files again",
        )
    state: dict[str, Tensor] = {}
    for name, path in files.items():
        shard = read_weights(path)
        if twice := sorted(state.keys() & shard.keys()):
            raise InputError("two shards hold the same tensor", where=path, found=preview_list(twice))
        if strays := [each for each in shard if places.get(each) != name]:
            raise InputError(
                "index and shards do not belong together",
                where=path,
                found=f"{len(strays)} tensors that the index does not expect there ({preview_list(strays)})",
                hint="fetch the index and all shards from the same place",
            )
        state |= shard
    if absent := [each for each in places if each not in state]:
        raise InputError(
            "index and shards do not belong together",
            where=index,
            found=f"{len(absent)} tensors that no shard holds ({preview_list(absent)})",
            hint="fetch the index and all shards from the same place",
        )
    return state, sum(path.stat().st_size for path in files.values())


def _read_index(index: Path) -> dict[str, str]:
    """Return tensor name -> file name, from the index of shards."""
    values = read_json(index)
    places = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(each, str) for each in places.values()):
        raise InputError(
            "not the index of shards", where=index, found="no weight_map", allowed='{"weight_map": {tensor: file}}'
        )
    kind = next(each for each in KINDS if f".{each}." in index.name)
    for name in set(places.values()):
        match = _SHARD.fullmatch(name)
        if match is None or match["kind"] != kind:
            raise InputError(
                "the index names a file that is no shard", where=index, found=name, allowed=f"NAME.{kind} beside it"
            )
    return dict(places)

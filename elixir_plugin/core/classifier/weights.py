"""Weights from elsewhere, loaded by name: all of them, or none when one does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import Self

from ...errors import InputError, preview_list
from ...io.pickles import is_dense
from ...io.reading import read_json
from ..classes import MOST
from .outputs import Form

WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel, DDP and torch.compile put before every name


def unwrap(module: nn.Module) -> nn.Module:
    """Strip ``DataParallel``, DDP and ``torch.compile`` wrappers."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if inner is None:
            return module
        module = inner


NAMED = "name the architecture the weights were trained with"


def build_by_name(make: Callable[[], nn.Module], state: Any, *, where: str, hint: str = NAMED) -> nn.Module:
    """Return the module that *make* builds, filled as :func:`load_by_name` does.

    A file may name a network of any size, so it is compared with the weights before it gets memory. One that cannot be
    built without its numbers is built at once.

    :raises InputError: as :func:`load_by_name`.
    """
    with suppress(NotImplementedError, RuntimeError):
        _matched(outline(make), state, where, hint)
    module = make()
    load_by_name(module, state, where=where, hint=hint)
    return module


class _LayersOnMeta(TorchFunctionMode):
    """Gives no memory to what layers leave empty for their weights; other numbers are there to compute sizes with."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **{**(kwargs or {}), **({"device": "meta"} if func is torch.empty else {})})


def outline(make: Callable[[], nn.Module]) -> nn.Module:
    """Return the module that *make* builds, with weights that have names and shapes and take no memory.

    :raises RuntimeError, NotImplementedError: when it takes its weights' numbers to build.
    """
    try:
        with torch.device("meta"):
            return make()
    except (NotImplementedError, RuntimeError):
        with _LayersOnMeta():
            return make()


def load_by_name(module: nn.Module, state: Any, *, where: str, hint: str = NAMED) -> None:
    """Load a state dict from elsewhere into *module*, matching by name only.

    Wrapper prefixes are stripped. A name that is missing, left over, of another shape or not dense refuses the whole
    file; only batch-norm step counters may be absent.

    :param hint: what a reader can do about weights that do not fit.
    :raises InputError: listing what did not match. *module* is then unchanged.
    """
    wanted, given = module.state_dict(), _matched(module, state, where, hint)
    module.load_state_dict({name: given.get(name, value) for name, value in wanted.items()})


def _matched(module: nn.Module, state: Any, where: str, hint: str) -> dict[str, Tensor]:
    """Return the weights in *state* under the names that *module* has for them; refuse them where they do not fit."""
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError("not a state dict", where=where, found=type(state).__name__, allowed="names -> tensors")
    wanted = module.state_dict()
    given = _unwrapped({str(name): value for name, value in state.items()}, wanted)
    if odd := odd_weights(given, wanted):
        raise InputError("weights are not plain numbers", where=where, found=preview_list(odd), allowed="dense tensors")
    faults = misfits(given, wanted)
    if any(faults.values()):
        raise InputError(
            "weights do not fit the architecture",
            where=where,
            found=told_misfits(faults),
            allowed=f"the {len(wanted)} names and shapes of {type(module).__name__}",
            hint=hint,
        )
    return given


def odd_weights(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Return the names of what cannot be compared, or would be rounded: not dense, or integers in place of floats."""
    odd = [name for name, value in given.items() if not is_dense(value)]
    rounded = [name for name in wanted if name in given and wanted[name].is_floating_point()]
    return odd + [name for name in rounded if name not in odd and not given[name].is_floating_point()]


def misfits(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return what of *given* does not match *wanted* by name and shape; batch-norm step counters may be absent."""
    misshapen = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    return {"missing": missing, "left over": [name for name in given if name not in wanted], "other shape": misshapen}


def told_misfits(faults: Mapping[str, list[str]]) -> str:
    """Return :func:`misfits` in one line.

    >>> told_misfits({"missing": ["fc.bias"], "left over": []})
    '1 missing (fc.bias)'
    """
    return "; ".join(f"{len(names)} {fault} ({preview_list(names)})" for fault, names in faults.items() if names)


def _unwrapped(given: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip a wrapper's prefix that every given name carries and not every wanted name does.

    torch's ``consume_prefix_in_state_dict_if_present`` renames in place: of ``module.z`` and ``module.module.z`` one
    would overwrite the other, where here both are refused.
    """
    for prefix in WRAPPERS * 2:  # a wrapper may sit in a wrapper
        if all(name.startswith(prefix) for name in given) and not all(name.startswith(prefix) for name in wanted):
            given = {name.removeprefix(prefix): value for name, value in given.items()}
    return given


Number = Annotated[float, Field(allow_inf_nan=False)]


class ModelFacts(BaseModel):
    """What the file holds; see :class:`~elixir_plugin.Classifier` for the meaning."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str | None
    num_classes: int = Field(ge=1, le=MOST)
    channels: int = Field(ge=1, le=1024)
    mean: tuple[Number, ...]
    std: tuple[Annotated[Number, Field(gt=0)], ...]
    input_size: int | None = Field(ge=1, le=4096)
    classes: tuple[str, ...] | None = None
    outputs: Form = "logits"

    @model_validator(mode="after")
    def _per_channel(self) -> Self:
        if not {len(self.mean), len(self.std)} <= {1, self.channels}:
            raise ValueError(f"mean and std must have one value, or {self.channels}")
        if self.classes is not None and len(set(self.classes)) != self.num_classes:
            raise ValueError(f"classes must be {self.num_classes} different names")
        return self


def read_facts(path: Path) -> ModelFacts:
    """Read and check the file.

    :raises InputError: when it is missing or no JSON, a value is of another type or out of range, or a key is unknown.
    """
    try:
        return ModelFacts.model_validate(read_json(path))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}".removeprefix(": ") for each in error.errors()]
        raise InputError(
            "not the facts of a classifier",
            where=path,
            found="; ".join(faults[:4]),
            allowed=", ".join(ModelFacts.model_fields),
            hint="write the folder anew with Classifier(...).save(folder)",
        ) from None

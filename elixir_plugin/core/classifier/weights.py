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

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
COUNTER = "num_batches_tracked"
STATISTICS = ("running_mean", "running_var")
DIVERGED = (
    "the training diverged, or numbers became too large for half precision: use an earlier checkpoint, or the weights "
    "in float32"
)
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


def build_by_name(
    make: Callable[[], nn.Module], state: Any, *, where: str, hint: str = NAMED, finite: bool = True
) -> nn.Module:
    """Return the module that *make* builds, filled as :func:`load_by_name` does.

    A file may name a network of any size, so it is compared with the weights before it gets memory. One that cannot be
    built without its numbers is built at once. The numbers that a fresh module draws leave torch's stream as it was.

    :raises InputError: as :func:`load_by_name`.
    """
    with torch.random.fork_rng(devices=[]):
        with suppress(NotImplementedError, RuntimeError):
            _matched(outline(make), state, where, hint)
        module = make()
    load_by_name(module, state, where=where, hint=hint, finite=finite)
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


def load_by_name(module: nn.Module, state: Any, *, where: str, hint: str = NAMED, finite: bool = True) -> None:
    """Load a state dict from elsewhere into *module*, matching by name only.

    Wrapper prefixes are stripped. A name that is missing, left over, of another shape or not dense refuses the whole
    file; only batch-norm step counters may be absent. So do numbers that would become others, and those that are not
    finite.

    :param finite: whether the numbers are looked at; a run's own results are taken as they are.
    :param hint: what a reader can do about weights that do not fit.
    :raises InputError: listing what did not match. *module* is then unchanged.
    """
    wanted, given = module.state_dict(), _matched(module, state, where, hint)
    if finite:
        refuse_changed_numbers(given, wanted, where)
    module.load_state_dict({name: given.get(name, value) for name, value in wanted.items()})


def _matched(module: nn.Module, state: Any, where: str, hint: str) -> dict[str, Tensor]:
    """Return the weights in *state* under the names that *module* has for them; refuse them where they do not fit."""
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError("not a state dict", where=where, found=type(state).__name__, allowed="names -> tensors")
    wanted = module.state_dict()
    given = _unwrapped({str(name): value for name, value in state.items()}, wanted)
    refuse_odd_weights(given, wanted, where)
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


def refuse_odd_weights(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: object) -> None:
    """Refuse what is no array of numbers, or of numbers of another kind than *wanted*.

    :raises InputError: naming the tensors, and what they hold.
    """
    odd = {name: "not dense" for name, value in given.items() if not is_dense(value)}
    for name, value in given.items():
        if name in odd or name not in wanted:
            continue
        like = wanted[name]
        fits = value.dtype in FLOATS if like.is_floating_point() else value.is_complex() == like.is_complex()
        if not fits:
            odd[name] = str(value.dtype).removeprefix("torch.")
    if odd:
        raise InputError(
            "weights are not plain numbers",
            where=where,
            found=preview_list([f"{name} ({kind})" for name, kind in odd.items()]),
            allowed="dense tensors of float16, bfloat16, float32 or float64 where the network computes with floats",
            hint="give the original weights: those of a quantised network cannot be computed with by themselves",
        )


def refuse_changed_numbers(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: object) -> None:
    """Refuse numbers that are not finite, and those that would be others as what *wanted* holds.

    Rounding of floats is no change, nor is that of batch-norm step counters, which averaging makes floats of. What a
    network itself holds may be infinite, e.g. a mask.

    :raises InputError: naming the tensors, and how many of their numbers are meant.
    """
    shared = [name for name in wanted if name in given]
    for what, count, hint in (
        ("weights are not finite", _not_finite, DIVERGED),
        ("weights would become other numbers", _changed, "give them in the type that the network has"),
    ):
        counters = [name for name in shared if name.endswith(COUNTER) and count is _changed]
        found = {name: count(given[name], wanted[name]) for name in shared if name not in counters}
        if bad := [f"{name} ({number:,} of {given[name].numel():,})" for name, number in found.items() if number]:
            raise InputError(what, where=where, found=preview_list(bad), allowed="finite numbers", hint=hint)


def refuse_not_finite(module: nn.Module) -> None:
    """Refuse a module whose weights are not finite, or whose buffers hold NaN; an infinite buffer may be a mask.

    :raises InputError: naming the tensors, and how many of their numbers are meant.
    """
    bad: list[tuple[str, Tensor, int]] = [
        (name, value, _infinite(value)) for name, value in module.named_parameters() if _infinite(value)
    ]
    for name, value in module.named_buffers():
        if count := _infinite(value) if name.endswith(STATISTICS) else int(value.isnan().sum()):
            bad.append((name, value, count))
    if bad:
        raise InputError(
            "weights are not finite",
            where=type(module).__name__,
            found=preview_list([f"{name} ({count:,} of {value.numel():,})" for name, value, count in bad]),
            allowed="finite numbers",
            hint=DIVERGED,
        )


def _infinite(value: Tensor) -> int:
    """Return how many numbers of *value* are not finite."""
    if not (value.is_floating_point() or value.is_complex()) or not value.numel() or value.is_meta:
        return 0
    if value.dtype in FLOATS:
        low, high = torch.aminmax(value.detach())  # one pass; both are NaN where any number is
        if bool(torch.isfinite(low) & torch.isfinite(high)):
            return 0
    return int((~torch.isfinite(value.detach())).sum()) if value.dtype in (*FLOATS, *COMPLEX) else 0


def _not_finite(value: Tensor, like: Tensor) -> int:
    count = _infinite(value)
    return count if count and not torch.equal(value.to(like.dtype), like) else 0


def _changed(value: Tensor, like: Tensor) -> int:
    """Return how many numbers are others as what *like* holds."""
    if value.dtype == like.dtype or like.is_meta:
        return 0
    if like.is_floating_point():
        narrower = value.dtype in FLOATS and torch.finfo(value.dtype).max > torch.finfo(like.dtype).max
        return _infinite(value.to(like.dtype)) if narrower else 0
    if value.shape != like.shape or value.dtype not in (*FLOATS, *INTEGERS):
        return 0
    return int((value.to(like.dtype).to(value.dtype) != value).sum())


def misfits(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return what of *given* does not match *wanted* by name and shape; batch-norm step counters may be absent."""
    misshapen = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    missing = [name for name in wanted if name not in given and not name.endswith(COUNTER)]
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

"""Files of weights as people keep them: bare, or inside a checkpoint, under whatever keys and prefixes.

Nothing goes by customary names. A checkpoint may hold several sets of weights (beside an optimiser's state); those
under some key and behind some prefix that match an architecture completely, by name and shape, are meant. Averaged
weights (EMA, SWA) are known by their key, and are taken only where there are no others or where they are asked for.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ElixirError, InputError, preview_list
from ...io.files import read_tensors, read_torch
from ...plugins import plugins
from .classifier import build_module
from .fresh import drawing
from .weights import misfits, odd_weights, told_misfits

DEPTH = 4  # how deep sets of weights lie in a checkpoint at most
AVERAGED = re.compile(r"(^|[._/-])(ema|swa|averaged?|avg)([._/-]|$)", re.IGNORECASE)
PROFILED = ("total_ops", "total_params")  # what the profiler thop leaves in modules
AUXILIARY = re.compile(r"^(aux[12]|AuxLogits)\.")  # heads of googlenet and inception_v3, used in training alone
ITEMS = 16  # of a list that are looked at
FILE = "the file itself"
Make = Callable[[int], nn.Module]  # number of classes -> module


@dataclass(frozen=True)
class Found:
    """One set of weights in a file.

    :ivar key: where it lies in the file, and what stands before every name: ``"state_dict/module"``.
    :ivar weights: name -> tensor, without the prefix.
    :ivar beside: names that do not begin with the prefix, and were not used.
    """

    key: str
    weights: Mapping[str, Tensor]
    beside: tuple[str, ...] = ()

    @property
    def averaged(self) -> bool:
        return AVERAGED.search(self.key) is not None


def read_weights(path: Path) -> dict[str, dict[str, Tensor]]:
    """Return every set of weights in a ``.safetensors`` file, or a torch file: key -> name -> tensor.

    :raises InputError: when the file cannot be read, holds more than plain data, or no tensors with names.
    """
    if path.suffix == ".safetensors":
        return {"": read_tensors(path)}
    try:
        content = read_torch(path, argparse.Namespace)
    except InputError as error:
        error.hint = error.hint or "a file of weights is written by torch.save(module.state_dict(), path)"
        if "refused" in error.what:
            error.hint += "; weights alone are written by torch.save(module.state_dict(), path)"
        raise
    found = dict(_sets(content))
    if not found:
        raise InputError(
            "no weights in the file",
            where=path,
            found=", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__,
            allowed="a state dict (name -> tensor), or a checkpoint that holds one",
        )
    return found


def load_weights(
    path: Path, make: Make, num_classes: int | None, *, key: str | None = None, name: str = "", channels: int = 3
) -> tuple[nn.Module, int, list[str]]:
    """Build a module, load the weights in *path*, and return it with its number of outputs and notes on what was read.

    The number is 0 where *make* always builds the same module: it shows when the module runs.

    :param make: builds the module for a number of classes.
    :param num_classes: None: as the head in the file says. With 2, a head for one logit is accepted.
    :param key: the weights to take, where the file holds several: a key, a prefix, or both.
    :param name: of the architecture, for messages.
    :raises InputError: with what does not match, and which architecture would, when no weights fit; for several that
        do, when nothing says which are meant.
    """
    sets = read_weights(path)
    with drawing(0):  # fresh weights, which are not kept, must not move the host's random stream
        in_file = _classes_in(sets, make)
        classes = (in_file or 0) if num_classes is None else num_classes
        if (num_classes, in_file) == (2, 1):
            classes = 1
        module = make(classes or 2)
        found = _fitting(sets, module)
        if not found:
            other = None if num_classes is None or not in_file or in_file == classes else in_file
            raise _misfit(path, sets, module, name=name, declared=num_classes, other=other, channels=channels)
    chosen, notes = _chosen(path, found, key)
    wanted = module.state_dict()
    if odd := odd_weights({each: chosen.weights[each] for each in wanted if each in chosen.weights}, wanted):
        raise InputError("weights are not plain numbers", where=path, found=preview_list(odd), allowed="dense tensors")
    module.load_state_dict({each: chosen.weights.get(each, value) for each, value in wanted.items()})
    place = f" under {chosen.key}" if chosen.key != FILE else ""
    notes.insert(
        0, f"suspect model: all {len(wanted)} tensors of {name or type(module).__name__} read from {path.name}{place}"
    )
    if left := [each for each in chosen.weights if each not in wanted]:
        notes.append(f"not used of {path.name}: {preview_list(left)}, which only training or profiling used")
    if chosen.beside:
        notes.append(f"not used of {path.name}: {len(chosen.beside)} tensors elsewhere ({preview_list(chosen.beside)})")
    return module, classes, notes


def _sets(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the sets of weights in *content*, outer ones first."""
    if isinstance(content, list | tuple):
        content = dict(enumerate(content[:ITEMS]))
    if not isinstance(content, Mapping) or len(path) > DEPTH:
        return
    if tensors := {str(name): value for name, value in content.items() if isinstance(value, Tensor)}:
        yield "/".join(path), tensors
    for name, value in content.items():
        yield from _sets(value, (*path, str(name)))


def _fitting(sets: Mapping[str, Mapping[str, Tensor]], module: nn.Module) -> list[Found]:
    """Return the sets that match *module* completely; of two with the same tensors, the first."""
    wanted = module.state_dict()
    fits: list[Found] = []
    for found in _behind_prefixes(sets, wanted):
        same = any(all(each.weights.get(name) is found.weights.get(name) for name in wanted) for each in fits)
        if not same and not any(_faults(found.weights, wanted).values()):
            fits.append(found)
    return fits


def _behind_prefixes(sets: Mapping[str, Mapping[str, Tensor]], wanted: Iterable[str]) -> Iterator[Found]:
    """Yield *sets* without each prefix behind which a wanted name stands."""
    names = {name for name in wanted if not name.endswith("num_batches_tracked")}
    for key, tensors in sets.items():
        for prefix in sorted(
            {given[:place] for given in tensors for place in _starts(given) if given[place:] in names}
        ):
            inside = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            beside = tuple(name for name in tensors if not name.startswith(prefix))
            place = "/".join(part for part in (key, prefix.rstrip(".")) if part)
            yield Found(place or FILE, inside, beside)


def _starts(name: str) -> list[int]:
    """Return where the parts of a dotted name begin."""
    return [0, *(place + 1 for place, letter in enumerate(name) if letter == ".")]


def _faults(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, list[str]]:
    faults = misfits(given, wanted)
    extra = [name for name in faults["left over"] if not name.endswith(PROFILED) and not AUXILIARY.match(name)]
    return faults | {"left over": extra}


def _chosen(path: Path, found: list[Found], key: str | None) -> tuple[Found, list[str]]:
    if key is not None:
        asked = [each for each in found if key == each.key or key in each.key.split("/")]
        if len(asked) != 1:
            raise InputError(
                "no such weights in the file" if not asked else "several weights have this key",
                where=path,
                found=key,
                allowed=", ".join(each.key for each in asked or found),
            )
        return asked[0], []
    plain = [each for each in found if not each.averaged]
    averaged = [each for each in found if each.averaged]
    if len(plain or averaged) > 1:
        raise InputError(
            "the file holds several models that fit",
            where=path,
            found=", ".join(each.key for each in plain or averaged),
            allowed="one",
            hint=f"say which, e.g. {{option:weights={(plain or averaged)[0].key}}}",
        )
    if not plain:
        return averaged[0], [f"{path.name} holds averaged weights ({averaged[0].key}) alone, and they are used"]
    others = ", ".join(f"weights={each.key}" for each in averaged)
    told = f"{path.name} also holds averaged weights, which are not used; they are those of option {others}"
    return plain[0], [told] if averaged else []


def _classes_in(sets: Mapping[str, Mapping[str, Tensor]], make: Make) -> int | None:
    """Return the number of outputs of the head in the file: what alone differs from a module with another number.

    None: no weights fit, whatever the number; 0: the module is the same for every number.
    """
    two, three = _shapes(make, 2), _shapes(make, 3)
    fixed = not any(misfits(two, three).values())
    counts: set[int] = set()
    for found in _behind_prefixes(sets, two):
        faults = _faults(found.weights, two)
        if faults["missing"] or faults["left over"]:
            continue
        given = [(found.weights[name].shape, two[name].shape) for name in two if name in found.weights]
        other = {shape[0] for shape, wanted in given if shape != wanted and len(shape)}
        count = 2 if not faults["other shape"] else other.pop() if len(other) == 1 else None
        if count and not any(_faults(found.weights, two if count == 2 else _shapes(make, count)).values()):
            counts.add(count)
    if len(counts) != 1:
        return None
    return 0 if fixed else counts.pop()


def _shapes(make: Make, classes: int) -> dict[str, Tensor]:
    """Return the names and shapes of a module for *classes*, without its numbers where it can be built so."""
    try:
        return _without_numbers(make, classes)
    except (NotImplementedError, RuntimeError):
        return make(classes).state_dict()


def _without_numbers(make: Make, classes: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        return make(classes).state_dict()


def _misfit(
    path: Path,
    sets: Mapping[str, Mapping[str, Tensor]],
    module: nn.Module,
    *,
    name: str,
    declared: int | None,
    other: int | None,
    channels: int,
) -> InputError:
    """Return what does not match, of the weights that come closest.

    :param other: the number of classes for which they would fit.
    """
    if other is not None:
        return InputError(
            "the weights are for another number of classes",
            where=path,
            found=other,
            allowed=declared,
            hint="give the model that was trained on these classes",
        )
    wanted = module.state_dict()
    given = [_faults(each.weights, wanted) for each in _behind_prefixes(sets, wanted)]
    given = given or [_faults(each, wanted) for each in sets.values()]
    closest = min(given, key=lambda faults: sum(map(len, faults.values())))
    fits = fitting_architectures(sets, channels)
    return InputError(
        "weights do not fit the architecture",
        where=path,
        found=told_misfits(closest),
        allowed=f"the {len(wanted)} names and shapes of {name or type(module).__name__}",
        hint=f"they fit {' and '.join(fits)}: {{option:architecture={fits[0]}}}"
        if fits
        else "name the architecture they were trained with; your own is named by what builds it, e.g. "
        "{option:architecture=nets.py:make_net}",
    )


def fitting_architectures(sets: Mapping[str, Mapping[str, Tensor]], channels: int) -> list[str]:
    """Return the names of the architectures that weights in a file fit: registered ones, else of torchvision.

    Of torchvision's families, such as ``resnet``, one member shows whether the names are at all alike.
    """
    import torchvision  # noqa: PLC0415  (slow)

    own = [name for name in sorted(plugins().offers()["architecture"]) if _fits(sets, channels, name)]
    if own:
        return own
    families: dict[str, list[str]] = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        family = re.match(r"[a-z]+(_v\d)?", name)
        families.setdefault(family[0] if family else name, []).append(name)
    for names in families.values():
        if _fits(sets, channels, names[0], alike=True) and (
            fits := [name for name in names if _fits(sets, channels, name)]
        ):
            return fits
    return []


def _fits(sets: Mapping[str, Mapping[str, Tensor]], channels: int, name: str, *, alike: bool = False) -> bool:
    """Tell whether some of *sets* fit the architecture called *name*, or look alike."""
    make = partial(_module, name, channels)
    try:
        wanted = _without_numbers(make, 2)
    except (NotImplementedError, RuntimeError, ElixirError):
        return False  # takes numbers to build, or other channels
    return _alike(sets, wanted) and (alike or _classes_in(sets, make) is not None)


def _alike(sets: Mapping[str, Mapping[str, Tensor]], wanted: Mapping[str, Tensor]) -> bool:
    """Tell whether a quarter of the names is the same."""
    return any(
        4 * len(each.weights.keys() & wanted.keys()) >= min(len(each.weights), len(wanted))
        for each in _behind_prefixes(sets, wanted)
    )


def _module(name: str, channels: int, classes: int) -> nn.Module:
    return build_module(name, classes, channels)

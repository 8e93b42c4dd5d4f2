"""Files of weights as people keep them: bare, or inside a checkpoint, under whatever keys and prefixes.

Nothing goes by customary names. A checkpoint may hold several sets of weights (beside an optimiser's state); those
under some key and behind some prefix that match an architecture completely, by name and shape, are meant. Averaged
weights (EMA, SWA) are known by their key, and are taken only where there are no others or where they are asked for.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...errors import InputError, preview_list
from ...io.reading import read_tensors, read_torch
from .architectures import fitting_architectures
from .fresh import drawing
from .matching import FILE, Found, Make, Sets, behind_prefixes, classes_in, faults_of, fitting
from .weights import refuse_changed_numbers, refuse_odd_weights, told_misfits

DEPTH = 4  # how deep sets of weights lie in a checkpoint at most
ITEMS = 16  # of a list that are looked at


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
        in_file = classes_in(sets, make)
        classes = (in_file or 0) if num_classes is None else num_classes
        if (num_classes, in_file) == (2, 1):
            classes = 1
        module = make(classes or 2)
        found = fitting(sets, module)
        if not found:
            other = None if num_classes is None or not in_file or in_file == classes else in_file
            raise _misfit(path, sets, module, name=name, declared=num_classes, other=other, channels=channels)
    chosen, notes = _chosen(path, found, key)
    wanted = module.state_dict()
    used = {each: chosen.weights[each] for each in wanted if each in chosen.weights}
    refuse_odd_weights(used, wanted, path)
    refuse_changed_numbers(used, wanted, path)
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


def _misfit(
    path: Path,
    sets: Sets,
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
    given = [faults_of(each.weights, wanted) for each in behind_prefixes(sets, wanted)]
    given = given or [faults_of(each, wanted) for each in sets.values()]
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

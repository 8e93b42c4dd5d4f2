"""Which sets of weights in a file match a module, by name and shape, behind whatever prefix."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from .weights import misfits, outline

AVERAGED = re.compile(r"(^|[._/-])(ema|swa|averaged?|avg)([._/-]|$)", re.IGNORECASE)
PROFILED = ("total_ops", "total_params")  # what the profiler thop leaves in modules
AUXILIARY = re.compile(r"^(aux[12]|AuxLogits)\.")  # heads of googlenet and inception_v3, used in training alone
FILE = "the file itself"
Make = Callable[[int], nn.Module]  # number of classes -> module
Sets = Mapping[str, Mapping[str, Tensor]]  # where they lie in the file -> name -> tensor


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
        """Whether the key says that these are averaged over training."""
        return AVERAGED.search(self.key) is not None


def fitting(sets: Sets, module: nn.Module) -> list[Found]:
    """Return the sets that match *module* completely; of two with the same tensors, the first."""
    wanted = module.state_dict()
    fits: list[Found] = []
    for found in behind_prefixes(sets, wanted):
        same = any(all(each.weights.get(name) is found.weights.get(name) for name in wanted) for each in fits)
        if not same and not any(faults_of(found.weights, wanted).values()):
            fits.append(found)
    return fits


def behind_prefixes(sets: Sets, wanted: Iterable[str]) -> Iterator[Found]:
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


def faults_of(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return what does not match, but for what profilers and auxiliary heads leave behind."""
    faults = misfits(given, wanted)
    extra = [name for name in faults["left over"] if not name.endswith(PROFILED) and not AUXILIARY.match(name)]
    return faults | {"left over": extra}


def classes_in(sets: Sets, make: Make) -> int | None:
    """Return the number of outputs of the head in the file: what alone differs from a module with another number.

    None: no weights fit, whatever the number; 0: the module is the same for every number.
    """
    two, three = _shapes(make, 2), _shapes(make, 3)
    fixed = not any(misfits(two, three).values())
    counts: set[int] = set()
    for found in behind_prefixes(sets, two):
        faults = faults_of(found.weights, two)
        if faults["missing"] or faults["left over"]:
            continue
        given = [(found.weights[name].shape, two[name].shape) for name in two if name in found.weights]
        other = {shape[0] for shape, wanted in given if shape != wanted and len(shape)}
        count = 2 if not faults["other shape"] else other.pop() if len(other) == 1 else None
        if count and not any(faults_of(found.weights, two if count == 2 else _shapes(make, count)).values()):
            counts.add(count)
    if len(counts) != 1:
        return None
    return 0 if fixed else counts.pop()


def _shapes(make: Make, classes: int) -> dict[str, Tensor]:
    """Return the names and shapes of a module for *classes*, without its numbers where it can be built so."""
    try:
        return without_numbers(make, classes)
    except (NotImplementedError, RuntimeError):
        return make(classes).state_dict()


def without_numbers(make: Make, classes: int) -> dict[str, Tensor]:
    """Return the names and shapes of a module for *classes* as tensors that hold no numbers.

    :raises RuntimeError, NotImplementedError: when the module takes numbers to build.
    """
    return outline(lambda: make(classes)).state_dict()

"""BackdoorBox's datasets without random augmentation: the same samples, with their trigger, as the model is shown them.

What is read is proved on a few samples: normalised, it must be what the dataset's own transforms make of them once
those known to be random are left out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from ...api.convert import RawDataset, streams_aside, to_raw
from ...api.items import Form, as_array
from ...api.names import class_names, parts_of
from ...errors import InputError, reason_of
from ..common.transforms import (
    Chain,
    is_normalize,
    is_to_tensor,
    marked,
    name_of,
    normalisation_in,
    same,
    steps_of,
    undone,
    without_random,
)
from .data import is_bgr, membership, normalisation_of

PROBES = 3  # samples of each kind that the reading is tried on
MODES = ("bytes", "floats", "whole")  # pixels as they are stored; as tensors; as tensors whose normalisation is undone
CLOSE = 2e-4  # in pixel scale: rounding of a normalisation and its undoing, and clipping


class Plain(Dataset[Any]):
    """Items of a dataset, channels turned to RGB."""

    def __init__(self, dataset: Any, swap: bool) -> None:
        self.dataset, self.swap = dataset, swap

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, label = self.dataset[index][:2]
        if self.swap:
            image = image.flip(0) if isinstance(image, Tensor) else np.asarray(image)[..., ::-1]
        return image, label


def read_plain(dataset: Any, *, color: str | None = None, seed: int = 0, where: str = "dataset") -> RawDataset:
    """Return images and labels of a dataset, poisoned or not, without random augmentation; RGB.

    :param color: ``"rgb"`` or ``"bgr"``: what the dataset's loader gives; default: found out.
    :param seed: for triggers that are drawn anew at every access; one draw is taken.
    :raises InputError: naming a transform that is random and not known to be, or cannot be left out; and where the
        images of other samples than the triggered ones change from one access to the next.
    """
    swap = is_bgr(dataset, color, where)
    poison, cover = membership(dataset)
    leaves = [_Leaf.of(part, where) for part in parts_of(dataset)]
    mode = _mode_of(leaves, seed, where)
    stats = normalisation_of(dataset) if mode == "whole" else None
    if stats is not None and swap:
        stats = stats[0][::-1], stats[1][::-1]
    made = {id(leaf.dataset): leaf.made(mode) for leaf in leaves}
    try:
        raw = to_raw(
            Plain(_rebuilt(dataset, made), swap), normalised=undone(stats), seed=seed, where=where,
            changing=set(np.flatnonzero(poison | cover).tolist()),
        )  # fmt: skip
    except InputError as error:
        unsure = {name_of(step) for leaf in leaves for step in leaf.unsure()}
        if error.what.startswith("images or labels change") and unsure:
            error.hint = f"hand over a data set without what is random; it may be {', '.join(sorted(unsure))}"
        raise
    left = sorted({name_of(step) for leaf in leaves for step in leaf.left})
    notes = (f"{where}: read without {', '.join(left)}",) if left else ()
    return replace(raw, classes=class_names(dataset), notes=(*raw.notes, *notes))


@dataclass(frozen=True)
class _Leaf:
    """A dataset that makes samples itself.

    :param chains: attribute -> its transforms, without those that are random.
    :param left: the random ones.
    """

    dataset: Any
    chains: dict[str, list[Any]]
    left: list[Any]

    @classmethod
    def of(cls, dataset: Any, where: str) -> _Leaf:
        """Tell transforms that are random from the others, and triggers from both."""
        found = {
            name: steps_of(value)
            for name, value in vars(dataset).items()
            if "transform" in name and "target" not in name and callable(value) and not _is_pair_of_transforms(value)
        } if hasattr(dataset, "__dict__") else {}  # fmt: skip
        bare = _with(dataset, {name: [] for name in found})
        pictures = [_item(bare, place, where)[0] for place in _spread(np.arange(len(dataset)))] if found else []
        chains: dict[str, list[Any]] = {}
        left: list[Any] = []
        for name, steps in found.items():
            if "poison" not in name:
                chains[name], out = without_random(steps, pictures, f"{where}.{name}")
                left += out
        benign = found.get("transform", [])
        kept = {id(step) for step in chains.get("transform", [])}
        for name, steps in found.items():
            if "poison" in name:
                places = zip(steps, marked(steps, benign), strict=True)
                chains[name] = [step for step, place in places if place is None or id(benign[place]) in kept]
        return cls(dataset, chains, left)

    def made(self, mode: str) -> Any:
        """Return a copy of the dataset whose transforms are as *mode* wants them; None: all that is not random."""

        def shortened(steps: Sequence[Any]) -> list[Any]:
            rest = list(steps)
            while rest and (
                (mode == "bytes" and is_to_tensor(rest[-1])) or (mode in MODES[:2] and is_normalize(rest[-1]))
            ):
                rest.pop()
            return rest

        return _with(self.dataset, {name: shortened(steps) for name, steps in self.chains.items()})

    def unsure(self) -> Iterator[Any]:
        """Yield the transforms that are none of torchvision's own."""
        for steps in self.chains.values():
            for step in steps:
                if not type(step).__module__.startswith("torchvision.") or type(step).__name__ == "Lambda":
                    yield step

    def proved(self, mode: str, seed: int, where: str) -> set[str]:
        """Return the types of pixels that *mode* reads, after making sure that they are what the model is shown.

        :raises InputError: when they are not, or cannot be read.
        """
        stats = normalisation_in(self.chains.get("transform", []))
        mean, std = (np.asarray(each) for each in stats or ((0.0,), (1.0,)))
        form = Form(normalised=undone(stats) if mode == "whole" else None)
        read, full, types = self.made(mode), self.made("whole"), set()
        for place in self._probes():
            with streams_aside(seed):
                found = form.image(_item(read, place, where)[0], f"{where}[{place}]")
            shown = [_shown(full, place, seed, where) for _ in range(2)]
            types.add(str(found.dtype))
            if not same(*shown):
                continue  # a trigger with a generator of its own
            self._refuse_other_size(shown[0], place, seed, where)
            wanted = shown[0] * std + mean
            pixels = found / 255 if found.dtype == np.uint8 else found
            if wanted.shape != found.shape or not np.allclose(pixels, wanted, rtol=0, atol=CLOSE):
                raise InputError(
                    "what is read is not what the dataset's transforms show a model",
                    where=f"{where}[{place}]",
                    found=", ".join(name_of(step) for step in self.chains.get("transform", [])),
                    allowed="images in [0, 1] that are normalised last",
                    hint="hand over a dataset whose transform ends with ToTensor and Normalize",
                )
        return types

    def _probes(self) -> list[int]:
        poison, cover = membership(self.dataset)
        kinds = (~(poison | cover), poison, cover)
        return sorted({place for rows in kinds for place in _spread(np.flatnonzero(rows))})

    def _refuse_other_size(self, shown: NDArray[Any], place: int, seed: int, where: str) -> None:
        """Refuse random transforms that also bring images to the size the model knows."""
        if not self.left:
            return
        try:
            drawn = _shown(self.dataset, place, seed, where)
        except InputError:
            return  # nobody has trained on it
        if drawn.shape != shown.shape:
            raise InputError(
                "images have another size or other channels without the random transforms",
                where=f"{where}[{place}]",
                found=f"{shown.shape} without, {drawn.shape} with {', '.join(name_of(step) for step in self.left)}",
                hint="hand over a dataset that does it without chance, e.g. with Resize and CenterCrop",
            )


def _mode_of(leaves: Sequence[_Leaf], seed: int, where: str) -> str:
    """Return the first way to read all parts alike that is proved.

    :raises InputError: when there is none: why the last one is not.
    """
    error: InputError | None = None
    for mode in MODES:
        try:
            types = {each for leaf in leaves for each in leaf.proved(mode, seed, where)}
        except InputError as failed:
            error = failed
            continue
        if len(types) <= 1:
            return mode
        error = InputError("images of mixed size or type", where=where, found=", ".join(sorted(types)))
    assert error is not None
    raise error


def _rebuilt(dataset: Any, made: dict[int, Any]) -> Any:
    """Return *dataset* with its parts replaced."""
    if isinstance(dataset, Subset):
        return Subset(_rebuilt(dataset.dataset, made), dataset.indices)
    if isinstance(dataset, ConcatDataset):
        return ConcatDataset([_rebuilt(part, made) for part in dataset.datasets])
    return made[id(dataset)]


def _with(dataset: Any, chains: dict[str, list[Any]]) -> Any:
    """Return a copy of *dataset* with other transforms."""
    plain = copy.copy(dataset)
    for name, steps in chains.items():
        setattr(plain, name, Chain(steps))
    pair = getattr(dataset, "transforms", None)
    if _is_pair_of_transforms(pair) and "transform" in chains:
        plain.transforms = copy.copy(pair)
        plain.transforms.transform = Chain(chains["transform"])
    return plain


def _is_pair_of_transforms(value: Any) -> bool:
    """Tell what torchvision's data sets keep as ``transforms``: those of image and label together."""
    return hasattr(value, "transform") and hasattr(value, "target_transform")


def _item(dataset: Any, place: int, where: str) -> Any:
    try:
        return dataset[place]
    except Exception as error:
        raise InputError(
            "the data set failed at a sample", where=f"{where}[{place}]", found=reason_of(error)
        ) from error


def _shown(dataset: Any, place: int, seed: int, where: str) -> NDArray[Any]:
    """Return an image ``[H, W, C]`` as a dataset makes it, in whatever range; bytes in [0, 1]."""
    with streams_aside(seed):
        value = _item(dataset, place, where)[0]
    array = as_array(value, f"{where}[{place}]")
    if array.ndim == 2:
        array = array[:, :, None]
    elif array.ndim == 3 and isinstance(value, Tensor) and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    return array / 255 if array.dtype == np.uint8 else np.array(array)


def _spread(rows: NDArray[Any]) -> list[int]:
    """Return a few of *rows*, from first to last."""
    return [int(rows[k]) for k in sorted(set(np.linspace(0, len(rows) - 1, PROBES).astype(int)))] if len(rows) else []

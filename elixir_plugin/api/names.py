"""What a data set of a host says of itself: the names of its classes, and whether it hands out true labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import ConcatDataset, DataLoader, Subset

from .items import Key


def class_names(dataset: Any, label_key: Key = None) -> tuple[str, ...] | None:
    """Return the names of the classes in the order of the labels, or None.

    As torchvision's data sets have them (``classes``, in agreement with ``class_to_idx`` if that is there), or those of
    Hugging Face (``features[label_key].names``). A data set with a ``target_transform`` has none: its labels mean
    something else. Subsets have the names of the whole, concatenations those that all parts share.
    """
    found = {_own_names(part, label_key) for part in parts_of(dataset)}
    return found.pop() if len(found) == 1 else None


def parts_of(dataset: Any) -> Iterator[Any]:
    """Yield the data sets below torch's own wrappers."""
    if isinstance(dataset, DataLoader | Subset):
        yield from parts_of(dataset.dataset)
    elif isinstance(dataset, ConcatDataset):
        for each in dataset.datasets:
            yield from parts_of(each)
    else:
        yield dataset


def _own_names(dataset: Any, label_key: Key) -> tuple[str, ...] | None:
    if _remaps(getattr(dataset, "target_transform", None)):
        return None
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        return _as_names(getattr(features.get(label_key), "names", None))
    names, places = getattr(dataset, "classes", None), getattr(dataset, "class_to_idx", None)
    texts = _as_names(names)
    if (
        texts is not None
        and isinstance(places, Mapping)
        and places != {name: label for label, name in enumerate(texts)}
    ):
        return None
    return texts


def _remaps(transform: Any) -> bool:
    """Tell whether there is something in the way from the label that is stored to the one handed out."""
    return transform is not None and getattr(transform, "transforms", True) != []


def _as_names(names: Any) -> tuple[str, ...] | None:
    if not isinstance(names, list | tuple) or not names or not all(isinstance(each, str) for each in names):
        return None
    return tuple(names)

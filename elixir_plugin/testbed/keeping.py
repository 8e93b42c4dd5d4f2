"""Models and arrays that are costly to make, and the same whenever they are made: kept on disk where asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..core.classifier.classifier import Classifier
from ..core.settings import fingerprint
from ..io.files import atomic_folder, write_tensors
from ..io.opening import is_there
from ..io.reading import read_tensors

Arrays = Mapping[str, NDArray[Any]]


def kept_model(cache: Path | None, name: str, facts: Any, make: Callable[[], Classifier]) -> Classifier:
    """Return what *make* returns, from *cache* when it is there.

    :param cache: a folder, or None: keep nothing.
    :param name: what the folder's name begins with.
    :param facts: whatever decides the result, in JSON types.
    """
    if cache is None:
        return make()
    folder = cache / f"{name}-{fingerprint(facts)}"
    if not folder.is_dir():
        model = make()
        with atomic_folder(folder) as part:
            model.save(part)
    return Classifier.load(folder)


def kept_arrays(cache: Path | None, name: str, facts: Any, make: Callable[[], Arrays]) -> Arrays:
    """Return what *make* returns, from *cache* when it is there; parameters as for :func:`kept_model`."""
    if cache is None:
        return make()
    path = cache / f"{name}-{fingerprint(facts)}.safetensors"
    if is_there(path):
        return {key: value.numpy() for key, value in read_tensors(path).items()}
    arrays = make()
    write_tensors(path, arrays)
    return arrays

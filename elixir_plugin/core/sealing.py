"""What a defense is given of a case: copies and opaque readers that lead nowhere else.

The promise: nothing that a defense is handed *refers* to the truth, to test data or to where the data came from, and
no *numbering* or *name* gives them away. Attributes, closures, the base of an array, the file of a memory map, names of
images, ids and notes end at what the defense may see. So a defense cannot use the truth by accident, nor by a plain
trick; ``elixir_plugin.testing.sealing`` walks through all that can be reached and holds this against a case.

Not promised, because Python cannot: a defense that searches the heap (``gc``), looks into frames of its callers,
imports private parts of this project or reads files by itself finds what it looks for. What the data say is no secret
either: pixels and labels, their order, the time that a lazily read image takes, a public copy of the same data set, and
a reserved clean set that holds originals of suspect samples.
"""

from __future__ import annotations

import copy
import mmap
from typing import Any

import numpy as np

from .classifier.classifier import Classifier
from .images import ImageSet
from .lazy import ImageBacking, LazyImages, plain_copy


def sealed_set(images: ImageSet) -> ImageSet:
    """Return the same samples in the same order, numbered from 0, without names.

    An array that is part of a larger one is copied; whatever is not in memory is read when it is used, as before.
    """
    pixels, labels = _sealed(images.images), plain_copy(images.labels)
    sealed = ImageSet(pixels, labels, images.num_classes, classes=images.classes)
    sealed.mark = images.mark
    return sealed


def unsealed_set(images: ImageSet, sealed: ImageSet, given: ImageSet) -> ImageSet:
    """Return *images*, made by a defense from *sealed*, with the names and ids of *given*, which was sealed."""
    if images is sealed:
        return given
    pixels = given.images if images.images is sealed.images else images.images
    return ImageSet(pixels, images.labels, images.num_classes, given.names, given.ids, classes=images.classes)


def sealed_model(model: Classifier) -> Classifier:
    """Return a view on the same module with the attributes of a classifier, and no others."""
    if type(model) is not Classifier:
        return model
    known = vars(Classifier(model.module, model.num_classes, channels=model.channels))
    view = copy.copy(model)
    for name in set(vars(view)) - set(known):
        del vars(view)[name]
    view._modules, view._buffers = dict(model._modules), dict(model._buffers)
    return view


def _sealed(images: ImageBacking) -> ImageBacking:
    if not isinstance(images, np.ndarray) or _on_disk(images):
        return LazyImages.over(images)
    return images if _alone(images) else plain_copy(images)


def _on_disk(array: Any) -> bool:
    while array is not None:
        if isinstance(array, np.memmap | mmap.mmap):
            return True
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
    return False


def _alone(array: np.ndarray[Any, Any]) -> bool:
    """Tell whether *array*, and every array that it is a view of, holds these numbers and nothing else."""
    root: Any = array
    while type(root) is np.ndarray and root.base is not None:
        root = root.base
    return (
        type(root) is np.ndarray
        and root.flags.owndata
        and array.flags.c_contiguous
        and array.nbytes == root.nbytes
        and array.ctypes.data == root.ctypes.data
        and array.dtype.metadata is None
        and root.dtype.metadata is None
    )

"""What an untrusted pickle may hold: dense tensors, and stand-ins for numpy's constructors that take numbers alone.

numpy's own constructors take object types and raw memory from a pickle, and then follow the addresses they find
there; allowing them by name is not enough. A refusal is a ``pickle.UnpicklingError`` naming what was asked for.
"""

from __future__ import annotations

import io
import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .calls import STORAGES
from .pickled_images import PickledImage

_BUILTINS = ("builtins", "__builtin__")  # as Python 3 and Python 2 call it


def _shown(value: Any) -> str:
    """Return *value* for a message, shortened: torch searches messages in ways that take for ever on long ones."""
    return repr(value[:40]) if isinstance(value, str | bytes) else type(value).__name__


class _Dtype:
    """Stand-in for ``numpy.dtype`` inside pickles: integers, floats and booleans only."""

    def __init__(self, spec: Any, align: bool = False, copy: bool = False) -> None:
        text = spec.decode("latin1") if isinstance(spec, bytes) else spec
        if not isinstance(text, str) or not re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f[248])", text):
            raise pickle.UnpicklingError(f"numpy.dtype({_shown(text)})")
        self.value = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">", b"<", b">"):
            self.value = self.value.newbyteorder("<" if state[1] in ("<", b"<") else ">")


class _Array(np.ndarray[Any, np.dtype[Any]]):
    """Stand-in for ``numpy.ndarray`` inside pickles: cannot be called, and is filled from checked parts."""

    def __new__(cls, *_: Any, **__: Any) -> _Array:
        raise pickle.UnpicklingError("numpy.ndarray, called directly")

    def __setstate__(self, state: Any) -> None:
        *_, shape, dtype, fortran, data = state
        checked: Any = (1, tuple(shape), _numeric(dtype), bool(fortran), bytes(memoryview(data)))
        super().__setstate__(checked)  # refuses data of another size


def _numeric(dtype: Any) -> np.dtype[Any]:
    if type(dtype) is not _Dtype:
        raise pickle.UnpicklingError(f"{_shown(dtype)} in place of a numpy.dtype")
    return dtype.value


def _reconstruct(*_: Any) -> _Array:
    return np.ndarray.__new__(_Array, (0,), np.uint8)


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return np.frombuffer(bytes(memoryview(data)), _numeric(dtype)).reshape(1)[0]


def _from_buffer(buffer: bytes, dtype: _Dtype, shape: tuple[int, ...], order: Any) -> NDArray[Any]:
    """What numpy uses from pickle protocol 5 on, the default since Python 3.14."""
    return np.frombuffer(bytes(memoryview(buffer)), _numeric(dtype)).reshape(shape, order=order)


def _no_bytes() -> bytes:
    """How old pickle protocols write the content of an empty array."""
    return b""


def _latin1(text: str, encoding: str) -> bytes:
    """Stand-in for ``_codecs.encode``, for the one encoding that numpy's own pickles use."""
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"_codecs.encode with {_shown(encoding)}")
    return text.encode("latin1")


def _named(item: Callable[..., Any], dotted: str) -> Callable[..., Any]:
    """Return *item* under the name that pickles use, by which torch knows what it may call."""

    def stand_in(*arguments: Any) -> Any:
        return item(*arguments)

    stand_in.__module__, _, stand_in.__name__ = dotted.rpartition(".")
    stand_in.__qualname__ = stand_in.__name__
    return stand_in


NUMPY: dict[str, Any] = {"numpy.ndarray": _Array, "numpy.dtype": _Dtype}
STAND_INS: dict[str, Any] = {"PIL.Image.Image": PickledImage}
for _dotted, _class in {**NUMPY, **STAND_INS}.items():
    _class.__module__, _, _class.__name__ = _dotted.rpartition(".")
    _class.__qualname__ = _class.__name__
NUMPY |= {name: _named(_no_bytes, name) for name in ("builtins.bytes", "__builtin__.bytes")}
NUMPY["_codecs.encode"] = _named(_latin1, "_codecs.encode")
for _package in ("numpy._core", "numpy.core"):  # as numpy 2 and numpy 1 call it
    for _name, _item in (
        ("multiarray._reconstruct", _reconstruct),
        ("multiarray.scalar", _scalar),
        ("numeric._frombuffer", _from_buffer),
    ):
        NUMPY[f"{_package}.{_name}"] = _named(_item, f"{_package}.{_name}")
STAND_INS |= NUMPY


def _sparse(layout: torch.layout, parts: Any) -> torch.Tensor:
    """What makes a sparse tensor, once its indices are known to lie inside it."""
    if layout == torch.sparse_coo:
        return torch.sparse_coo_tensor(*parts[:3], check_invariants=True)
    return torch.sparse_compressed_tensor(*parts, layout=layout, check_invariants=True)


TORCH: dict[str, Any] = {
    **STAND_INS,
    **STORAGES,
    **{f"{package}.{item.__name__}": item for package in _BUILTINS for item in (set, complex, bytearray)},
    "collections.OrderedDict": OrderedDict,
    "collections.Counter": Counter,
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    "torch.Tensor": torch.Tensor,
    "torch.nn.parameter.Parameter": torch.nn.Parameter,
    "torch.serialization._get_layout": torch.serialization._get_layout,
    "torch._tensor._rebuild_from_type_v2": torch._tensor._rebuild_from_type_v2,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    **{str(item): item for item in vars(torch).values() if isinstance(item, torch.dtype | torch.qscheme)},
}
for _name in ("tensor", "tensor_v2", "tensor_v3", "qtensor", "parameter", "parameter_with_state"):
    TORCH[f"torch._utils._rebuild_{_name}"] = getattr(torch._utils, f"_rebuild_{_name}")
TORCH["torch._utils._rebuild_meta_tensor_no_storage"] = torch._utils._rebuild_meta_tensor_no_storage


class PlainUnpickler(pickle.Unpickler):
    """Accepts numpy arrays beside the built-in containers; any other global ends the reading."""

    def find_class(self, module: str, name: str) -> Any:
        item = NUMPY.get(f"{module}.{name}")
        if item is None:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return _own(item)


def _own(item: Any) -> Any:
    """Return *item* for one pickle: as that may set attributes of what it is given, it gets its own."""
    return lambda *arguments: item(*arguments)  # noqa: PLW0108


class TorchUnpickler(pickle.Unpickler):
    """Accepts what :func:`torch.save` writes of tensors and plain data; any other global ends the reading.

    The pickle must have passed :class:`.survey.Survey`, which knows what may be called, made and filled.

    :param content: the pickle.
    :param storage: gives the storage for the key that a tensor refers to, and the type of its numbers.
    :param more: further classes, by name.
    """

    def __init__(self, content: bytes, storage: Callable[[str, torch.dtype], Any], more: Mapping[str, type]) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8")
        self._storage, self._more = storage, more

    def find_class(self, module: str, name: str) -> Any:
        item = TORCH.get(dotted := f"{module}.{name}")
        if item is None:
            item = self._more.get(dotted)
        if item is None:
            raise pickle.UnpicklingError(dotted)
        return _own(item) if isinstance(item, FunctionType) else item

    def persistent_load(self, identity: Any) -> Any:
        _, dtype, key, *_ = identity
        return self._storage(key, dtype)


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether *tensor* is a plain array of numbers: neither sparse, nested nor quantised, and not without content."""
    return tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_quantized or tensor.is_meta)


def holds_all(tensor: torch.Tensor) -> bool:
    """Whether *tensor* is dense, and holds each of its numbers: a file can repeat one of them without end."""
    return is_dense(tensor) and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()

"""What a pickle may call, with which arguments, and what calling and hashing cost."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch

from .opcodes import Accounts, Entry, Node

AXES = 64  # as many as torch and numpy have
_NUMPY = ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
_TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor")
_WRAPPED = ("_rebuild_parameter", "_rebuild_parameter_with_state")
_OTHERS = ("_rebuild_sparse_tensor", "_rebuild_meta_tensor_no_storage")
_OF_TENSORS = {f"torch._utils.{name}" for name in _TENSORS}
_HASHED_ONCE = ("text", "_codecs.encode")
_SINGLE = {f"{package}.multiarray.scalar" for package in ("numpy.core", "numpy._core")}
_HASHING = {"builtins.set", "builtins.frozenset"}
MAPPINGS = {"collections.OrderedDict", "collections.Counter"}
# what takes a state once it is made; of what a tensor takes, none is any longer written, and it would change its size
FILLED = {*MAPPINGS, "numpy.dtype", "PIL.Image.Image"}
FILLED |= {f"{package}.multiarray._reconstruct" for package in ("numpy.core", "numpy._core")}
_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"
CALLS = {
    *_OF_TENSORS,
    *(f"torch._utils.{name}" for name in (*_WRAPPED, *_OTHERS)),
    *(f"{package}.{name}" for package in ("numpy.core", "numpy._core") for name in _NUMPY),
    *_HASHING,
    *MAPPINGS,
    _FROM_TYPE,
    *("numpy.dtype", "numpy.ndarray", "builtins.bytes", "builtins.bytearray", "builtins.complex", "_codecs.encode"),
    *("torch.Size", "torch.device", "torch.nn.parameter.Parameter", "torch.serialization._get_layout"),
    "PIL.Image.Image",
}  # fmt: skip
_NUMBERS = {
    **{"Double": torch.double, "Float": torch.float, "Half": torch.half, "BFloat16": torch.bfloat16},
    **{"Long": torch.long, "Int": torch.int, "Short": torch.short, "Char": torch.int8, "Byte": torch.uint8},
    **{"Bool": torch.bool, "ComplexDouble": torch.cdouble, "ComplexFloat": torch.cfloat},
    **{"QUInt8": torch.quint8, "QInt8": torch.qint8, "QInt32": torch.qint32},
    **{"QUInt4x2": torch.quint4x2, "QUInt2x4": torch.quint2x4, "Untyped": torch.uint8},
}
STORAGES = {f"torch.{name}Storage": dtype for name, dtype in _NUMBERS.items()}
STORAGES["torch.storage.UntypedStorage"] = torch.uint8
ITEM_BYTES = {name: dtype.itemsize for name, dtype in STORAGES.items()}


class Calls(Accounts):
    """Adds calls to the accounts.

    :param more: names of further classes that may be called.
    """

    def __init__(self, data: bytes, start: int, where: Path, more: Sequence[str]) -> None:
        super().__init__(data, start, where)
        self._more = more
        self._names: dict[int, str] = {}  # of classes and functions, by the place of their opcode
        self._odd = 0  # keys that may share one hash

    def _hash(self, keys: list[Entry], pos: int) -> None:
        """Account for hashing *keys*; tuples and long integers can be made to share one hash, and are compared then."""
        for key in keys:
            if isinstance(key, Node) and key.kind not in _HASHED_ONCE:
                self._odd += key.kind not in _SINGLE
                self._spend(key.weight * (1 if key.kind in _SINGLE else self._odd), pos)

    def _called(self, function: Entry, arguments: Entry, pos: int) -> str:
        """Return the name of *function*, once it is sure that it may be called with *arguments*."""
        name = self._names.get(function) if isinstance(function, int) else None
        if name is None or (name not in CALLS and name not in self._more):
            raise pickle.UnpicklingError(name or "a call of what is no function")
        given = self.parts(arguments)
        if name in _OF_TENSORS:
            self._count_repeated(given, pos)
        elif name == "_codecs.encode" and self.text(given[1]) not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"_codecs.encode with {self.text(given[1])!r}")
        elif name == "builtins.bytearray" and given and self.text(given[0]) is None and isinstance(given[0], int):
            raise pickle.UnpicklingError("builtins.bytearray of a size")
        elif name in _HASHING and given:
            self._hash(self.parts(given[0]), pos)
        elif name in MAPPINGS and given:
            if not (isinstance(given[0], Node) and given[0].kind == "dict"):
                self._hash([self.parts(pair)[0] for pair in self.parts(given[0])], pos)
        elif name == _FROM_TYPE:
            self._called(given[0], given[2], pos)
            self._refuse_attributes(given[3], torch.Tensor)
        elif name.endswith("_with_state"):
            self._refuse_attributes(given[3], torch.Tensor)
        return name

    def _count_repeated(self, given: list[Entry], pos: int) -> None:
        """Account for a tensor that has more numbers than its storage, which strides of 0 allow."""
        storage, shape = given[0], [self.number(each) for each in self.parts(given[2])]
        strides = [self.number(each) for each in self.parts(given[3])]
        first = self.number(given[1])
        if not isinstance(storage, Node) or storage.kind != "storage" or min((first, *shape, *strides)) < 0:
            raise ValueError("a tensor without a storage, or of negative size")
        if len(shape) > AXES:  # the product of endless numbers is endless work
            raise ValueError(f"a tensor of {len(shape):,} axes")
        if len(strides) != len(shape):
            raise ValueError(f"a tensor of {len(shape)} axes and {len(strides)} strides")
        count = math.prod(shape)
        # what lies outside of its storage would make torch enlarge that
        if count and first + sum((size - 1) * step for size, step in zip(shape, strides, strict=True)) >= storage.numel:
            raise ValueError("a tensor that is larger than its storage")
        if count > storage.numel:
            self._work += count
            if self._work > self._allowed(pos):
                raise self._excess(
                    f"a tensor of {' × '.join(map(str, shape))} numbers that repeats {storage.numel:,} of them",
                    "tensors that hold each of their numbers",
                )

    def _refuse_attributes(self, state: Entry, cls: type) -> None:
        """Refuse attributes that take the place of what *cls* has under that name."""
        names = state.items if isinstance(state, Node) and state.kind == "dict" else []
        if isinstance(state, Node) and state.kind == "tuple":  # of two dicts
            names = [key for part in state.items if isinstance(part, Node) for key in part.items]
        for name in names:
            text = self.text(name)
            if text is not None and hasattr(cls, text):
                raise pickle.UnpicklingError(f"attribute {text!r} of {cls.__name__}")

"""A dataset whose items are made by a function, for tests of reading."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset


class Items(Dataset[Any]):
    """Items made by a function of the position."""

    def __init__(self, make: Any, length: int) -> None:
        self.make, self.length = make, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.make(index)

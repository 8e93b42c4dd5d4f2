"""Poisons that learn from the set they poison: once, whatever the order of its samples."""

from __future__ import annotations

import copy
import dataclasses
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from ..core.context import Context, derive_seed
from ..core.images import ImageSet, Index
from ..errors import InputError
from .base import Pixels, Poison
from .keeping import Arrays, kept_arrays


class Learning(Poison):
    """A poison that learns. Subclasses write :meth:`learn`, and have the setting ``pattern_seed``.

    What is learned is a function of samples, ids, settings and ``pattern_seed``, on one machine; see :mod:`.surrogate`
    for what another may change.

    :cvar unlearned: settings that have no say in what is learned.
    """

    unlearned: ClassVar[frozenset[str]] = frozenset({"rate"})
    learned: Arrays | None = None
    _source: ImageSet | None = None

    @abstractmethod
    def learn(self, train: ImageSet, context: Context) -> Arrays:
        """Return what the poison learns from *train*, whose samples are in the order of their ids.

        :param context: its seed follows from ``pattern_seed``.
        """

    def fitted(self, train: ImageSet) -> Self:
        """Return the poison with what it learns from *train*; itself, where that is done."""
        if self._source is train:
            return self
        fitted = copy.copy(self)
        fitted._source = train
        in_order = train.subset(np.argsort(train.ids))
        seed = derive_seed(getattr(self.settings, "pattern_seed", 0), "learned")
        context = dataclasses.replace(self.context or Context(), seed=seed)
        settings = self.settings.under_first_names(self.settings.dump())
        facts = [
            self.name,
            {key: value for key, value in settings.items() if key not in self.unlearned},
            in_order.fingerprint(),
            in_order.ids.tolist(),
        ]
        fitted.learned = kept_arrays(context.cache, self.name, facts, lambda: fitted.learn(in_order, context))
        return fitted

    def known(self, name: str) -> NDArray[Any]:
        """Return the array *name* of what was learned.

        :raises InputError: when nothing was learned yet.
        """
        if self.learned is None:
            raise InputError(
                "the poison has not learned from a set yet",
                where=f"poison {self.name}",
                hint="call fitted() with the unpoisoned training set",
            )
        return self.learned[name]

    def noise(self, ids: Index) -> Pixels:
        """Return the learned noise ``[n, H, W, C]`` of the samples called *ids*, pixel scale.

        :raises InputError: for a sample that the poison was not fitted to.
        """
        noise, known = self.known("noise"), self.known("ids")
        places = np.searchsorted(known, ids).clip(max=len(known) - 1) if len(known) else np.zeros(len(ids), np.int64)
        strange = ids[known[places] != ids] if len(known) else ids
        if len(strange):
            raise InputError(
                "no noise was learned for this sample",
                where=f"poison {self.name}",
                found=f"id {strange[0]} ({len(strange)} such samples)",
                hint="call fitted() with the set that holds it",
            )
        out: Pixels = noise[places].astype(np.float32) / np.float32(255)
        return out

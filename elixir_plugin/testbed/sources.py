"""The unpoisoned set that a testbed case starts from: the embedded digits, or whatever an adapter reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ..adapter import Source, get_adapter
from ..core.case import Case, Origin
from ..core.context import derive_seed
from ..core.draws import stratified_rows
from ..core.images import ImageSet, Index
from ..errors import InputError
from .digits import Splits

CLEAN_SHARE, TEST_SHARE = 0.05, 0.2  # of the images, where the base has no such set and no number is given


@dataclasses.dataclass(frozen=True)
class Base:
    """What is to be poisoned.

    :param mirror: whether images may be mirrored, where that is known; see :class:`~elixir_plugin.Case`.
    :param notes: what the adapter told, and what was drawn from where.
    :param origin: where it was read; None for the embedded digits.
    :param own_test: whether the test set is that of the source, whole and in its order.
    """

    splits: Splits
    mirror: bool | None
    notes: tuple[str, ...]
    origin: Origin | None = None
    own_test: bool = False


def read_base(
    source: str, options: dict[str, Any], seed: int, *, clean: int | None = None, test: int | None = None
) -> Base:
    """Read an unpoisoned set through its adapter, and split it.

    Its own reserved clean set and test set are taken where it has them and no number is given. Others are drawn from
    its images, class by class, the test set first and under a seed of its own: no seed of a run moves samples between
    what models are trained on and what they are judged on. They are then in no other part.

    :param source: ``ADAPTER:PATH``.
    :param options: of that adapter.
    :param seed: of the draw of the reserved clean set.
    :param clean, test: numbers of images to draw; None: see above, else shares of 5 % and 20 %.
    :raises InputError: when the set is poisoned already, or too small.
    """
    parsed = Source.parse(source, options, where="{option:base}")
    case = get_adapter(parsed.adapter)(parsed.options).read(Path(parsed.path), seed)
    _refuse_poisoned(case, source)
    if case.train is None:
        raise InputError("nothing to poison", where=source, allowed="a source with a training set")
    train, notes = case.train, list(case.notes)
    drawn: dict[str, ImageSet] = {}
    own = {"test": case.test if test is None else None, "clean": case.clean if clean is None else None}
    for name, count, share in (("test", test, TEST_SHARE), ("clean", clean, CLEAN_SHARE)):
        kept = own[name]
        if kept is None:
            number = round(share * len(case.train)) if count is None else count
            draw = derive_seed(0 if name == "test" else seed, "testbed", name)
            drawn[name], train = _parted(train, number, draw, name)
            notes.append(f"{name}: {len(drawn[name])} images were set aside, class by class, before poisoning")
        else:
            drawn[name] = kept
    return Base(
        Splits(train, drawn["clean"], drawn["test"]), case.mirror, tuple(notes), case.origin, own["test"] is not None
    )


def _parted(images: ImageSet, count: int, seed: int, name: str) -> tuple[ImageSet, ImageSet]:
    """Return *count* samples, and the others."""
    if not 0 <= count < len(images):
        raise InputError(
            "not enough images", where=f"{{option:{name}}}", found=count, allowed=f"0..{len(images) - 1:,}"
        )
    rows = stratified_rows(images.labels, count, seed)
    rest: Index = np.setdiff1d(np.arange(len(images)), rows)
    return images.subset(rows), images.subset(rest)


def _refuse_poisoned(case: Case, source: str) -> None:
    poisoned = case.truth is not None and bool(case.truth.poison.any())
    if poisoned or case.test_poisoned is not None:
        raise InputError(
            "the set to poison is poisoned already",
            where=source,
            found="a set with a poison of its own",
            allowed="an unpoisoned set",
        )

"""The reserved clean set of a BackdoorBench record: drawn from the clean data, or listed in a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np

from ...core.context import derive_seed
from ...core.draws import Draw, per_class_words, stratified_rows
from ...core.images import ImageSet, Index
from ...errors import InputError, preview_list
from ...io.opening import read_text
from .data import CleanData

RESERVING = ("clean_ratio", "clean_from", "clean_draw", "index")  # the options that decide on it


def reserved_clean(
    clean: CleanData,
    seed: int,
    *,
    clean_ratio: float,
    clean_from: Literal["train", "test"],
    clean_draw: Draw,
    index: Path | None,
) -> tuple[ImageSet, Index | None, str]:
    """Return the reserved clean set, the test positions that are left to score (None: all), and a note.

    The parameters are the options of the adapter.

    :raises InputError: when the set would take every test sample, or the list of positions does not fit.
    """
    pool = clean.train if clean_from == "train" else clean.test
    count = max(1, round(clean_ratio * len(pool)))
    if count > len(pool) - (clean_from == "test"):
        raise InputError(
            "reserved clean set too large",
            where="option clean_ratio",
            found=f"{clean_ratio} of {len(pool)} samples",
            allowed="at least one test sample must be left to score",
        )
    if index is not None:
        listed = clean.train.subset(_read_index(index, len(clean.train)))
        note = f"reserved clean set: {len(listed)} clean originals of the training set, listed in {index}"
        return listed, None, f"{note}; {per_class_words(listed)}"
    rows = _drawn(pool.labels, count, clean_draw, derive_seed(seed, "backdoorbench/clean"))
    drawn = pool.subset(rows)
    how = "class by class" if clean_draw == "stratified" else "uniformly (BackdoorBench's convention)"
    how = f"drawn {how}: {per_class_words(drawn)}"
    if clean_from == "train":
        note = (
            f"reserved clean set: {count} of the {len(pool)} clean originals of the training set, {how}. "
            "This is an oracle: who holds only the suspect set does not have them"
        )
        return drawn, None, note
    note = f"reserved clean set: {count} of the {len(pool)} clean test samples, which are not scored, {how}"
    return drawn, np.setdiff1d(np.arange(len(pool)), rows), note


def _drawn(labels: Index, count: int, how: Draw, seed: int) -> Index:
    if how == "stratified":
        return stratified_rows(labels, count, seed)
    return np.sort(np.random.default_rng(seed).choice(len(labels), count, False))


def _read_index(file: Path, length: int) -> Index:
    """Read positions from a text file, as the toolkit's ``--index`` has them."""
    try:
        words = read_text(file).split()
    except FileNotFoundError:
        raise InputError("file not found", where=file) from None
    if odd := [word for word in words if re.fullmatch("-?[0-9]{1,18}", word) is None]:
        raise InputError(
            "list of positions cannot be read", where=file, found=preview_list(odd), allowed="whole numbers"
        )
    rows = np.unique(np.array(words, np.int64))
    if not len(rows) or rows[0] < 0 or rows[-1] >= length:
        found = f"{rows[0]}..{rows[-1]}" if len(rows) else "none"
        raise InputError("position out of range", where=file, found=found, allowed=f"0..{length - 1}, at least one")
    return rows

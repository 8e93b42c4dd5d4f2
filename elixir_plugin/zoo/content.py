"""What a set holds, sample by sample: pixels, labels and truth, and one hash over all of it.

The hash is over what is read, not over files: it is the same in every format, and for every version of what encodes
images. It does not depend on the order of the samples either, because formats have orders of their own.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..core.case import Case, Truth
from ..core.images import ImageSet
from ..errors import InputError
from ..io.files import write_csv
from ..io.opening import read_text

COLUMNS = ("part", "position", "label", "original", "poison", "cover", "sha256")
TABLE_BYTES = 1 << 30
NOT_KNOWN = ""  # in place of what the truth says, in parts of which it says nothing


@dataclass(frozen=True)
class Rows:
    """The samples of one part of a case, in the order they are read in.

    :param head: shape, type and number of classes of the images, as text.
    :param pixels: ``N`` hexadecimal SHA-256 of the pixels.
    :param truth: ``N`` times original label, poison and cover, as texts; empty where there is no truth.
    """

    head: str
    pixels: tuple[str, ...]
    labels: tuple[int, ...]
    truth: tuple[tuple[str, str, str], ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def cells(self) -> Iterator[tuple[str, ...]]:
        """Yield what is hashed of each sample."""
        for pixels, label, truth in zip(self.pixels, self.labels, self.truth, strict=True):
            yield (str(label), *truth, pixels)

    def digest(self) -> str:
        """Return the SHA-256 of all samples, in no order."""
        lines = sorted(",".join(cells) for cells in self.cells())
        return hashlib.sha256("\n".join([self.head, *lines]).encode()).hexdigest()

    def in_order_of(self, read: Rows) -> Rows | None:
        """Return the same samples in the order of *read*, with their own truth; None where *read* holds others."""
        if read.head != self.head or len(read) != len(self):
            return None
        truths: dict[tuple[str, int], deque[tuple[str, str, str]]] = defaultdict(deque)
        for pixels, label, truth in zip(self.pixels, self.labels, self.truth, strict=True):
            truths[pixels, label].append(truth)
        try:
            found = [truths[key].popleft() for key in zip(read.pixels, read.labels, strict=True)]
        except IndexError:  # no sample like this one is left
            return None
        return replace(read, truth=tuple(found))


Content = Mapping[str, Rows]  # part -> its samples


def content_of(case: Case) -> dict[str, Rows]:
    """Return the samples of all parts of *case*: ``train``, ``clean``, ``test`` and ``triggered``."""
    found = {"clean": case.clean, "test": case.test}
    content = {name: _rows(images, None) for name, images in found.items() if images is not None and len(images)}
    if case.train is not None:
        content["train"] = _rows(case.train, _truth_cells(case.truth))
    if case.test_poisoned is not None:
        originals = [(str(label), NOT_KNOWN, NOT_KNOWN) for label in case.test_poisoned.original_labels.tolist()]
        content["triggered"] = _rows(case.test_poisoned.samples, originals)
    return dict(sorted(content.items()))


def digest(content: Content) -> str:
    """Return the one hash of a set: SHA-256 over the hashes of its parts."""
    lines = [f"{name} {rows.digest()}" for name, rows in sorted(content.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_table(content: Content, path: Path) -> None:
    """Write one line per sample, see :data:`COLUMNS`."""
    lines = [
        [name, str(position), *cells] for name, rows in content.items() for position, cells in enumerate(rows.cells())
    ]
    write_csv(path, COLUMNS, lines)


def read_table(path: Path, heads: Mapping[str, str], size: int = TABLE_BYTES) -> dict[str, Rows]:
    """Read what :func:`write_table` wrote; nothing is read beyond the first line that is wrong.

    :param heads: part -> shape, type and number of classes, which the table does not say.
    :param size: of the file in bytes, as recorded; a larger one is refused.
    :raises InputError: for anything else.
    """
    lines = csv.reader(io.StringIO(read_text(path, min(size, TABLE_BYTES))))
    parts: dict[str, list[list[str]]] = {name: [] for name in heads}
    try:
        if tuple(next(lines, ())) != COLUMNS:
            raise InputError("not the table of a zoo set", where=path, allowed=f"a header {','.join(COLUMNS)}")
        for number, line in enumerate(lines, start=2):
            known = len(line) == len(COLUMNS) and line[0] in parts
            if not known or line[1] != str(len(parts[line[0]])) or not _is_number(line[2]):
                raise InputError("broken table of a zoo set", where=f"{path}:{number}", found=",".join(line)[:200])
            parts[line[0]].append(line[2:])
    except csv.Error as error:
        raise InputError("not the table of a zoo set", where=path, found=str(error)) from None
    return {
        name: Rows(
            heads[name],
            tuple(cells[4] for cells in found),
            tuple(int(cells[0]) for cells in found),
            tuple((cells[1], cells[2], cells[3]) for cells in found),
        )
        for name, found in parts.items()
    }


def differences(expected: Rows, found: Rows, *, with_truth: bool = True) -> Iterator[tuple[int, str]]:
    """Yield position and ``"pixels"``, ``"label"`` or ``"truth"`` of every sample that differs; same length given."""
    for position in range(len(expected)):
        if expected.pixels[position] != found.pixels[position]:
            yield position, "pixels"
        if expected.labels[position] != found.labels[position]:
            yield position, "label"
        if with_truth and expected.truth[position] != found.truth[position]:
            yield position, "truth"


def _rows(images: ImageSet, truth: Sequence[tuple[str, str, str]] | None) -> Rows:
    pixels = [
        hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
        for _, chunk in images.chunks()
        for image in chunk
    ]
    head = f"{images.image_shape} {images.images.dtype.name} {images.num_classes}"
    known = [(NOT_KNOWN, NOT_KNOWN, NOT_KNOWN)] * len(images) if truth is None else truth
    return Rows(head, tuple(pixels), tuple(images.labels.tolist()), tuple(known))


def _truth_cells(truth: Truth | None) -> list[tuple[str, str, str]] | None:
    if truth is None or truth.original_labels is None or truth.cover is None:
        return None
    columns = (truth.original_labels.tolist(), truth.poison.tolist(), truth.cover.tolist())
    return [(str(label), str(int(poison)), str(int(cover))) for label, poison, cover in zip(*columns, strict=True)]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10

"""A resumable store for the output of a slow per-sample function, one chunk at a time.

::

    manifest.json    format version, geometry, identity and its hash; written last when the store is made
    data.npy         the output [N, *shape], full size from the start; any numpy reads it
    marks/00000003   one file per chunk: lock while it is worked on, digest of its bytes once it is done

Chunks are fixed: their bounds depend on length and chunk size, never on batch size or number of processes.

A chunk is written into its place in ``data.npy``, flushed to disk, and only then its mark gets the digest. A process
killed at any point leaves an empty or torn mark, which counts as "not done". :meth:`ChunkStore.fill` compares every
digest with the bytes on disk, so a chunk that a power loss or anything else damaged is done again. One file with marks
next to it, rather than one file per chunk: nothing has to be joined at the end, and the disk holds the output once.

Writing goes through ordinary file calls. A memory map would end the process with SIGBUS on a full disk, and its dirty
pages would count as memory of the process. Whatever the length, memory holds one chunk.

Several processes may fill one store at once, as ranks of one job or started twice by accident: the lock on a chunk's
mark (``flock``, released by the system when its process ends) keeps them from working on the same chunk; one that finds
a chunk locked takes the next one and comes back. Where the file system or platform has no such locks, two processes
may do a chunk twice; a mixture of both would not match its digest.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...core.context import Context
from ...errors import InputError, RunError
from ...io.files import atomic_file, is_leftover, remove_leftovers, writing
from ...io.holding import NO_SUPPORT
from ...io.locks import locked
from ...io.opening import open_file
from .manifest import START_OVER, Geometry, make_manifest, refuse_other

MANIFEST, DATA, MARKS, LOCK = "manifest.json", "data.npy", "marks", ".lock"

Work = Callable[[slice], NDArray[Any]]
"""Maps the positions of one chunk to its output ``[stop - start, *shape]``."""


class ChunkStore:
    """Resumable output ``[N, *shape]`` of a per-sample function, in fixed chunks, under one folder.

    :param folder: made when missing; one that holds anything else is refused.
    :param identity: plain JSON, everything that decides the output: settings, seed, fingerprints of input and network.
    :param chunk: samples per chunk; memory holds one.
    :raises RunError: when the folder belongs to another identity or geometry, is damaged, or cannot be written.
    :raises SettingsError: for an impossible geometry.
    :raises InputError: for an identity that is not plain JSON.
    """

    def __init__(
        self,
        folder: Path,
        *,
        length: int,
        shape: tuple[int, ...],
        dtype: Literal["uint8", "float32"],
        identity: Mapping[str, Any],
        chunk: int = 256,
    ) -> None:
        self.folder = Path(folder)
        self.geometry = Geometry(length, tuple(shape), dtype, chunk)
        self._header = self.geometry.header()
        self._size = len(self._header) + length * self.geometry.sample_bytes
        manifest = make_manifest(self.geometry, identity)
        if not self._is_made():
            _refuse_other_files(self.folder)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / LOCK, wait=True):
                if not self._is_made():  # another process may have been faster
                    self._create(manifest)
        refuse_other(self.folder / MANIFEST, manifest)
        self._refuse_damaged()

    @property
    def complete(self) -> bool:
        """Whether every chunk is marked as done."""
        return self._done() == self.geometry.count

    def fill(self, work: Work, context: Context, *, description: str, rank: int = 0, world: int = 1) -> None:
        """Do the chunks of this rank's share that are missing or damaged; each appears atomically.

        :param work: called once per chunk, in order. Its errors pass through; chunks done before stay done.
        :param description: shown in front of the progress bar.
        :raises RunError: when *work* returns another shape or type, or numbers that are not finite, or when the disk
            is full. The chunk then counts as not done.
        """
        todo = [index for index in self.geometry.share(rank, world) if not self._intact(index)]
        held = [
            index
            for index in context.progress(todo, description, total=len(todo))
            if not self._attempt(index, work, wait=False)
        ]
        if held:
            logging.getLogger(__name__).warning(
                "another process works on %d chunks of %s; waiting for it", len(held), self.folder
            )
        for index in held:  # done by now, or left by a process that was stopped
            self._attempt(index, work, wait=True)

    def array(self) -> np.memmap[Any, Any]:
        """Return the output ``[N, *shape]`` as a read-only memory map.

        :raises RunError: when chunks are missing.
        """
        if not self.complete:
            raise RunError(
                "output is not complete",
                where=self.folder,
                found=f"{self._done()} of {self.geometry.count} chunks",
                hint="run the same command again: it continues where it stopped",
            )
        dtype = np.dtype(self.geometry.dtype).newbyteorder("<")
        shape = (self.geometry.length, *self.geometry.shape)
        return np.memmap(self.folder / DATA, dtype, "r", len(self._header), shape)

    def _is_made(self) -> bool:
        """Whether there is a manifest; a link that leads nowhere is one too, a damaged one, and not replaced."""
        return os.path.lexists(self.folder / MANIFEST)

    def _create(self, manifest: Mapping[str, Any]) -> None:
        """Reserve the disk space, then write the manifest; called under the folder's lock."""
        remove_leftovers(self.folder)
        data = self.folder / DATA
        try:
            with data.open("wb") as file:
                file.write(self._header)
                file.flush()
                _reserve(file.fileno(), self._size)
                os.fsync(file.fileno())
            (self.folder / MARKS).mkdir(exist_ok=True)
            with atomic_file(self.folder / MANIFEST) as temporary, temporary.open("w", encoding="utf-8") as text:
                json.dump(manifest, text, indent=2, allow_nan=False)
                text.flush()
                os.fsync(text.fileno())
        except BaseException:
            data.unlink(missing_ok=True)
            raise
        _sync_folder(self.folder)

    def _refuse_damaged(self) -> None:
        data = self.folder / DATA
        try:
            with open_file(data) as file:
                sound = os.fstat(file.fileno()).st_size == self._size and file.read(len(self._header)) == self._header
        except (OSError, InputError):
            sound = False
        if not sound or not (self.folder / MARKS).is_dir():
            raise RunError(
                "output file is damaged",
                where=data,
                allowed=f"{self._size} bytes, as the manifest says",
                hint=START_OVER,
            )

    def _attempt(self, index: int, work: Work, *, wait: bool) -> bool:
        """Do chunk *index* under its lock, or find it done; return False when another process holds it."""
        path = self._mark(index)
        with locked(path, wait=wait) as mark:
            if mark is None:
                return False
            if not self._intact(index):
                part = self.geometry.part(index)
                with writing(path):
                    mark.truncate(0)
                content = self._checked(work(part), part)
                self._write(part, content)
                with writing(path):
                    mark.write(_digest(content.data) + b"\n")
                    os.fsync(mark.fileno())
        return True

    def _checked(self, values: Any, part: slice) -> NDArray[Any]:
        wanted = (part.stop - part.start, *self.geometry.shape)
        where = f"samples {part.start}..{part.stop - 1}"
        if not isinstance(values, np.ndarray) or values.shape != wanted or values.dtype != self.geometry.dtype:
            found = f"{getattr(values, 'dtype', type(values).__name__)} {getattr(values, 'shape', '')}"
            raise RunError("chunk refused", where=where, found=found, allowed=f"{self.geometry.dtype} {wanted}")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = int((~np.isfinite(values.reshape(len(values), -1)).all(1)).argmax())
            raise RunError(
                "chunk refused: numbers that are not finite",
                where=f"{where}, first in {part.start + bad}",
                hint="compute in float32; check the network's weights",
            )
        return np.ascontiguousarray(values, np.dtype(self.geometry.dtype).newbyteorder("<"))

    def _write(self, part: slice, content: NDArray[Any]) -> None:
        with writing(self.folder / DATA), (self.folder / DATA).open("r+b") as file:
            file.seek(self._offset(part))
            file.write(content.data)
            file.flush()
            os.fsync(file.fileno())

    def _intact(self, index: int) -> bool:
        """Whether chunk *index* is marked as done and its bytes are those that were marked."""
        marked = self._marked(index)
        if marked is None:
            return False
        part = self.geometry.part(index)
        with _reading(self.folder / DATA), open_file(self.folder / DATA) as file:
            file.seek(self._offset(part))
            content = file.read((part.stop - part.start) * self.geometry.sample_bytes)
        intact = _digest(content) == marked
        if not intact:
            logging.getLogger(__name__).warning("chunk %d of %s is damaged; doing it again", index, self.folder)
        return intact

    def _marked(self, index: int) -> bytes | None:
        """Return the digest in the mark of chunk *index*; None when missing, empty or torn."""
        path = self._mark(index)
        with _reading(path):
            try:
                with open_file(path) as file:
                    match = re.fullmatch(rb"([0-9a-f]{32})\n", file.read(64))
            except FileNotFoundError:
                return None
        return match[1] if match else None

    def _done(self) -> int:
        return sum(self._marked(index) is not None for index in range(self.geometry.count))

    def _mark(self, index: int) -> Path:
        return self.folder / MARKS / f"{index:08}"

    def _offset(self, part: slice) -> int:
        return len(self._header) + int(part.start) * self.geometry.sample_bytes


def _refuse_other_files(folder: Path) -> None:
    """Refuse a folder that holds anything but a store, perhaps an unfinished start of one."""
    with writing(folder):
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    mine = (DATA, MARKS, LOCK, MANIFEST)  # the last one when another process makes it at this moment
    own = {name for name in names if name in mine or is_leftover(name)}
    if names - own or (names and LOCK not in names):  # without a lock, a data.npy is not ours
        found = sorted(names - own or names)[0]
        raise RunError("folder holds something else", where=folder, found=found, hint="choose another folder")


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=16).hexdigest().encode()


def _reserve(handle: int, size: int) -> None:
    """Give an empty file its size, with its space on disk where the system can: a full disk shows before any work."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(handle, 0, size)
        except OSError as error:
            if error.errno not in NO_SUPPORT:
                raise
    os.truncate(handle, size)


def _sync_folder(folder: Path) -> None:
    """Flush the names in *folder* to disk; Windows has no such call."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise RunError("cannot read", where=path, found=error.found or error.what, hint=START_OVER) from None
    except OSError as error:
        raise RunError("cannot read", where=path, found=error.strerror or str(error), hint=START_OVER) from error

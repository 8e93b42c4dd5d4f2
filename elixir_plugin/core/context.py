"""What surrounds a running defense: seed, device, work folder, progress, stages."""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from tqdm import tqdm

from ..errors import SettingsError
from ..io.process import stop_if_asked
from ..io.progress import said_while, show_progress

if TYPE_CHECKING:
    from .agreement import Agreement

T = TypeVar("T")
EVERY = 60.0  # seconds between two lines of progress where no bar can be drawn


@dataclass
class Context:
    """Handed to every defense beside the case.

    :param seed: the one seed of the run; never used directly, see :meth:`generator`.
    :param device: where tensors live; :func:`resolve_device` turns ``"auto"`` into one.
    :param work_dir: a folder for intermediate files that a later run may pick up, or None: keep nothing.
    :param cache: a folder for what other runs can use as well, e.g. denoisers trained on the same images; or None.
    :param quiet: no progress, neither bars nor lines.
    :param any_model: go on with a suspect model that does not fit the labels; see :mod:`~elixir_plugin.core.agreement`.
    :param on_stage: called with ``(stage, seconds)`` after each stage, also after one that failed.
    :ivar mirroring: what :mod:`.mirroring` has decided, for which case.

    >>> context = Context(seed=3)
    >>> with context.stage("score"):
    ...     draws = [torch.rand(2, generator=context.generator("demo")).tolist() for _ in range(2)]
    >>> draws[0] == draws[1], list(context.timings)
    (True, ['score'])
    """

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    work_dir: Path | None = None
    cache: Path | None = None
    quiet: bool = True
    any_model: bool = False
    on_stage: Callable[[str, float], None] | None = None
    timings: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    agreement: Agreement | None = field(
        default=None, init=False
    )  # what defense.check_agreement found for the run to come
    cached_seconds: float = field(default=0.0, init=False)
    mirroring: Any = field(default=None, init=False, repr=False)

    def derive_seed(self, *name: object) -> int:
        """Return a 63-bit seed that depends on :attr:`seed` and *name* alone."""
        return derive_seed(self.seed, *name)

    def generator(self, *name: object) -> torch.Generator:
        """Return a fresh CPU generator for the random draws called *name*.

        Draws are made on the CPU, so that they do not depend on the device. Two names never share a stream, so
        adding a draw in one place leaves all others as they were.
        """
        return torch.Generator().manual_seed(self.derive_seed(*name))

    @contextmanager
    def scratch_dir(self, name: str) -> Iterator[Path]:
        """Yield a folder for what is too large for memory: *name* in the work folder, else one that goes at the end."""
        if self.work_dir is not None:
            yield self.work_dir / name
            return
        with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
            yield Path(folder)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; adds up when entered again. Cached seconds count, but :attr:`on_stage` is not told them.

        Where there is no terminal, a stage that says nothing for a minute says that it is still at work.
        """
        stop_if_asked()
        started, counted = time.perf_counter(), self.counted_time()
        silent = self.quiet or sys.stderr.isatty()
        try:
            with nullcontext() if silent else said_while(name):
                yield
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + self.counted_time() - counted
            if self.on_stage is not None:
                self.on_stage(name, time.perf_counter() - started)

    def counted_time(self) -> float:
        """Return seconds since some moment, cached ones included; the difference of two readings is what counts."""
        return time.perf_counter() + self.cached_seconds

    def add_cached_time(self, seconds: float) -> None:
        """Count *seconds* that another run spent on something found in :attr:`cache`, as if spent here."""
        self.cached_seconds += seconds

    def progress(self, items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
        """Iterate with a progress bar on a terminal; elsewhere, show a line every minute, see ``io.progress``."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        stoppable = _until_stopped(items)
        if self.quiet:
            return stoppable
        if not sys.stderr.isatty():
            return _log_progress(stoppable, description, total)
        width = shutil.get_terminal_size().columns  # 80 where the terminal does not say
        return tqdm(stoppable, desc=description, total=total, leave=False, ncols=width)

    def note(self, text: str, level: int = logging.WARNING) -> None:
        """Tell the reader of the report something they should know; also logged, under *level*."""
        if text not in self.notes:
            self.notes.append(text)
            logging.getLogger(__name__).log(level, text)


def derive_seed(*parts: object) -> int:
    """Hash *parts* to a 63-bit seed.

    >>> derive_seed(0, "augment", 3) != derive_seed(0, "augment", 4)
    True
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def resolve_device(name: str) -> torch.device:
    """Turn ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"`` into a device that is there.

    :raises SettingsError: for a device this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device("none" if name == "meta" else name)  # which holds no values
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:  # ImportError: torch.hpu
        raise SettingsError(
            "device not available",
            where="device",
            found=name,
            allowed="auto, cpu" + (", cuda" if torch.cuda.is_available() else ""),
            hint=str(error).splitlines()[0],
        ) from None
    return device


def _until_stopped(items: Iterable[T]) -> Iterator[T]:
    for item in items:
        stop_if_asked()
        yield item


def _log_progress(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    """Yield *items*, and say now and then how many are done and how long the others will take."""
    started = said = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said >= EVERY and done != total:
            said = now
            left = "" if total is None else f" of {total}, {_format_eta((now - started) / done * (total - done))} left"
            show_progress(f"{description}: {done}{left}")


def _format_eta(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    return f"about {minutes} min" if minutes < 60 else f"about {minutes // 60} h {minutes % 60} min"

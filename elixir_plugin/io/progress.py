"""Lines of progress for where no bar can be drawn: into a file, a notebook, the log of a batch job.

They are logged, so that a host that listens decides what becomes of them; where nobody listens, they go to standard
error, as the bar does on a terminal.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

LOGGER = logging.getLogger("elixir_plugin.progress")
SILENCE = 60.0  # seconds after which a stage says that it is still at work
_last_said = [0.0]  # when a line was shown, by time.perf_counter


if TYPE_CHECKING:
    _Stream = logging.StreamHandler[TextIO]
else:
    _Stream = logging.StreamHandler  # Python 3.10 cannot index it


class LogFile(_Stream):
    """Writes to a log file that is open; nobody reads progress there."""


class _ToStderr(logging.Handler):
    """Write to whatever is standard error at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # nobody listens any more
            print(self.format(record), file=sys.stderr, flush=True)  # noqa: T201


def show_progress(line: str) -> None:
    """Log *line*, and see to it that somebody reads it.

    A handler of the host that shows such lines is enough: one that is not a log file, on the logger
    ``elixir_plugin.progress`` or one above it.

    >>> show_progress("purifying: 3 of 10, about 3 min left")
    """
    if LOGGER.level == logging.NOTSET:
        LOGGER.setLevel(logging.INFO)
    if not _is_shown() and LOGGER.isEnabledFor(logging.INFO):
        LOGGER.addHandler(_ToStderr())
    LOGGER.info("%s", line)
    _last_said[0] = time.perf_counter()


@contextmanager
def said_while(stage: str) -> Iterator[None]:
    """Say every minute that *stage* is still at work, unless another line has been shown meanwhile."""
    done, started = threading.Event(), time.perf_counter()

    def say() -> None:
        while not done.wait(SILENCE):
            now = time.perf_counter()
            if now - max(started, _last_said[0]) >= SILENCE:
                show_progress(f"{stage}: {round((now - started) / 60)} min so far")

    thread = threading.Thread(target=say, daemon=True, name=f"progress of {stage}")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _is_shown() -> bool:
    """Tell whether a handler writes such a record elsewhere than into a file."""
    line = LOGGER.makeRecord(LOGGER.name, logging.INFO, __file__, 0, "", (), None)
    logger: logging.Logger | None = LOGGER
    while logger is not None:
        for handler in logger.handlers:
            silent = isinstance(handler, logging.NullHandler | logging.FileHandler | LogFile)
            if not silent and handler.level <= line.levelno and handler.filter(line):
                return True
        logger = logger.parent if logger.propagate else None
    return False

"""What may happen to a process of a front end: signals, closed streams, memory that runs out, a folder that is gone.

Imports nothing slow: memory may run out while torch is imported.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from ..errors import ElixirError, RunError

if sys.platform != "win32":
    import resource

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "CUDA out of memory",
    "HIP out of memory",
    "error: out of memory",  # of CUDA itself, outside of torch's allocator
    "_ALLOC_FAILED",  # of cuBLAS, cuDNN and their kin
    "_ALLOCATION_FAILED",
    "std::bad_alloc",
    "failed to map segment from shared object",
    "cannot allocate memory in static TLS block",
    "can't start new thread",
)
ROOM = 2 * 2**30  # bytes of address space for everything but the libraries of torch
_asked: list[int] = []  # the number of the signal that asks this program to end, until that is done
WORDS = "nothing half-written is left. Run the same command again to go on."


class Stopped(KeyboardInterrupt):
    """A signal asks the program to end; so that everything ends as at Ctrl-C.

    :ivar number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise :class:`Stopped` at the first Ctrl-C, SIGTERM or SIGHUP; a second one ends the process at once.

    A signal that is ignored, as SIGHUP is under ``nohup``, or that a host handles, is left as it is. Where a library
    swallows the exception, :func:`stop_if_asked` raises it again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in STOPPING if signal.getsignal(number) in usual}

    def stop(number: int, _frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        _asked.append(number)
        raise Stopped(number)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        if before:  # else an outer block listens
            _asked.clear()
        for number, handler in before.items():
            if signal.getsignal(number) is stop:
                signal.signal(number, handler)


def stop_if_asked() -> None:
    """Raise :class:`Stopped` again where an earlier one was swallowed; long loops call it in each turn.

    What a signal raises is lost where Python or a library ignores every exception: in a finaliser, in a callback of
    native code, while an attribute is asked for.
    """
    if _asked and threading.current_thread() is threading.main_thread():
        raise Stopped(_asked[0])


def exit_code_of(error: KeyboardInterrupt) -> int:
    """Return 128 + the number of the signal, as shells do.

    >>> exit_code_of(KeyboardInterrupt()), exit_code_of(Stopped(signal.SIGTERM))
    (130, 143)
    """
    return 128 + getattr(error, "number", signal.SIGINT)


def interruption(error: KeyboardInterrupt) -> str:
    """Return what to tell a person whose program was interrupted."""
    name = str(error) if isinstance(error, Stopped) and error.number != signal.SIGINT else ""
    return f"interrupted{f' by {name}' if name else ''}; {WORDS}"


def fill_closed_streams() -> None:
    """Open the null device in place of standard streams that are closed.

    Else the next file that is opened, which may hold results, would take what libraries print; and Python's streams
    would be None.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            found = os.open(os.devnull, os.O_RDWR)
            if found != number:
                os.dup2(found, number)
                os.close(found)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115


def going_on_unheard(say: Callable[[Any], None], stream: int = 1) -> Callable[[Any], None]:
    """Return *say* for a long command: when the reader of its output goes away, it goes on, and says no more.

    :param stream: where *say* writes: 1, standard output, or 2, standard error.
    """

    def said(text: Any) -> None:
        try:
            say(text)
        except BrokenPipeError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream)  # also what is still in a buffer goes there
            os.close(null)

    return said


def memory_ran_out(error: BaseException) -> bool:
    """Whether *error* says that memory ran out, on a device, on the CPU, or while a library was loaded.

    >>> memory_ran_out(MemoryError()), memory_ran_out(RuntimeError("DefaultCPUAllocator: not enough memory"))
    (True, True)
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if isinstance(error, SystemError):  # an extension module got no memory while it was imported, and says nothing
        return address_limit() is not None
    kinds = (RuntimeError, ImportError, OSError)
    return isinstance(error, kinds) and any(text in str(error) for text in MEMORY)


def memory_error(error: BaseException, where: object) -> RunError:
    """Return one clear error for one that says that memory ran out."""
    limit = address_limit()
    said = " ".join(str(error).split())[:200]
    return RunError(
        "out of memory",
        where=where,
        found=f"{type(error).__name__}: {said}" if said else type(error).__name__,
        allowed=None if limit is None else f"{limit / 2**30:.1f} GiB of addresses (ulimit -v)",
        hint=("raise the limit, " if limit is not None else "free memory, ")
        + "or set a smaller batch size, smaller images, or fewer threads ({argument:threads=1}); then run it again",
    )


def address_limit() -> int | None:
    """Return how many bytes of address space this process may use; None: as many as there are."""
    if sys.platform == "win32":
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def folder_gone() -> ElixirError | None:
    """Return an error when the working folder has been removed, else None."""
    try:
        os.getcwd()  # noqa: PTH109
    except OSError as error:
        return RunError(
            "the working folder is gone",
            where=os.environ.get("PWD"),
            found=error.strerror,
            hint="change to a folder that is there, then run it again",
        )
    return None


@contextmanager
def clear_ends(where: object) -> Iterator[None]:
    """Turn memory that ran out, and a working or temporary folder that is not there, into one clear error.

    :raises RunError: instead of what the libraries raise.
    """
    try:
        yield
    except ElixirError:
        raise
    except Exception as error:  # the libraries raise a dozen classes
        if memory_ran_out(error):
            told = memory_error(error, where)
            error.__traceback__ = None  # whose frames hold the tensors
            raise told from None
        if isinstance(error, OSError) and (gone := folder_gone()) is not None:
            raise gone from None
        if isinstance(error, FileNotFoundError) and "No usable temporary directory" in str(error):  # says tempfile
            raise RunError(
                "no temporary folder can be written",
                where="TMPDIR",
                found=os.environ.get("TMPDIR", "not set"),
                allowed="a folder that can be written, with free space",
                hint="set TMPDIR to one, then run it again",
            ) from None
        raise


def refuse_tight_memory() -> None:
    """Refuse to begin where torch and scipy cannot be loaded: OpenBLAS would ask for memory without end, or give up.

    :raises RunError: when the address space left is smaller than torch's libraries and :data:`ROOM`.
    """
    limit, torch = address_limit(), find_spec("torch")
    if limit is None or torch is None or torch.origin is None or "torch" in sys.modules:
        return
    need = ROOM + sum(file.stat().st_size for file in (Path(torch.origin).parent / "lib").glob("*.so*"))
    if limit < need:
        raise RunError(
            "too little memory to begin",
            where="ulimit -v",
            found=f"{limit / 2**30:.1f} GiB of addresses",
            allowed=f"{need / 2**30:.1f} GiB and what the run itself needs",
            hint="raise the limit, or limit physical memory instead (a container, systemd-run -p MemoryMax=…)",
        )

"""Base of all adapters: the only kind of code that knows how a toolkit stores its data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from . import config
from .case import Case
from .errors import InputError

if TYPE_CHECKING:
    from .evaluation import Evaluation
    from .outcome import Outcome


class Adapter(ABC):
    """Reads a toolkit's files into a :class:`~elixir_plugin.Case` and writes outcomes in the toolkit's own format.

    Subclasses set :attr:`name`, may set :attr:`Options`, and write :meth:`read`. Those that can write results back
    also write :meth:`result_folder` and :meth:`write`.

    An adapter never imports the toolkit, never modifies what it reads, and puts what it knows of the attack only
    into ``case.truth``, ``case.test_poisoned`` and ``case.origin.facts``.

    :cvar reads_disk: True when the path of a source names a file or folder; a run then spells it out from the root.
    :ivar cache: a folder for what is costly to make and the same whenever it is made, or None: keep nothing.

    >>> from elixir_plugin import get_adapter
    >>> get_adapter("testbed")({"model": False}).read(Path("badnets"), seed=1).origin.path
    'badnets'
    """

    name: ClassVar[str]
    reads_disk: ClassVar[bool] = True
    Options: ClassVar[type[config.Settings]] = config.Settings
    options: config.Settings
    cache: Path | None = None

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self.options = self.Options.build(options, where=f"options of adapter {self.name}")

    @abstractmethod
    def read(self, path: Path, seed: int = 0) -> Case:
        """Read the case at *path*.

        :param seed: for whatever has to be drawn, e.g. a reserved clean set.
        :raises InputError: when the files are missing, damaged, hostile or inconsistent.
        """

    def result_folder(self, case: Case, defense: str) -> Path | None:
        """Return where the toolkit would look for this defense's result, or None when it has no such place."""
        return None

    def write(self, case: Case, outcome: Outcome, evaluation: Evaluation, folder: Path, defense: str) -> list[Path]:
        """Write *outcome* to *folder* in the toolkit's format and return the files written.

        Each file appears only when it is complete.
        """
        return []


def existing(path: Path, what: str, hint: str | None = None) -> Path:
    """Return *path* if it is there.

    :raises InputError: when it is not.
    """
    if not path.exists():
        raise InputError(f"{what} not found", where=path, hint=hint)
    return path

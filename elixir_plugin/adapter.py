"""Base of all adapters: the only kind of code that knows how a toolkit stores its data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .core import settings as config
from .core.case import Case
from .core.settings import Source
from .errors import InputError, SettingsError

if TYPE_CHECKING:
    from .core.outcome import Outcome
    from .evaluation.metrics import Evaluation
    from .runs.checkout import Placement


class Adapter(ABC):
    """Reads a toolkit's files into a :class:`~elixir_plugin.Case` and writes outcomes in the toolkit's own format.

    Subclasses set :attr:`name`, may set :attr:`Options`, and write :meth:`read`. Those that can write results back
    also write :meth:`result_folder` and :meth:`write`; those that can write whole cases, :meth:`export`; those whose
    toolkit has a command line of its own, :meth:`placement`.

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

    def export(self, case: Case, folder: Path) -> Source:
        """Write the whole *case* to *folder* in the toolkit's format, and return how to read it back.

        What the format has no place for is left out, with a warning in the log. The folder appears only when it is
        complete.

        :raises InputError: when the case lacks something the format cannot do without, or holds something it cannot
            say.
        """
        raise SettingsError(f"{self.name} cannot write whole cases", where="--to", found=self.name)

    def placement(self, root: Path, defenses: Sequence[str]) -> Placement:
        """Return the files that make *defenses* callable by name inside the toolkit's checkout at *root*.

        They hold none of the toolkit's code. :func:`~elixir_plugin.runs.checkout.place` brings them there.

        :raises InputError: when *root* is no checkout of the toolkit.
        """
        raise SettingsError(f"{self.name} has no checkout to install into", where="toolkit", found=self.name)


def existing(path: Path, what: str, hint: str | None = None) -> Path:
    """Return *path* if it is there.

    :raises InputError: when it is not.
    """
    if not path.exists():
        raise InputError(f"{what} not found", where=path, hint=hint)
    return path

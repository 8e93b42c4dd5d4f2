"""Base of all adapters: the only kind of code that knows how a toolkit stores its data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from .core.case import Case
from .core.metrics import Evaluation
from .core.outcome import Outcome
from .core.settings import Settings, usable_path
from .errors import InputError, SettingsError
from .io.opening import refuse_unusable
from .plugins import plugins


@dataclass(frozen=True)
class Placement:
    """What an install wants to place.

    :param toolkit: name of the adapter it belongs to.
    :param files: path relative to the checkout, with forward slashes -> content.
    :param defenses: the defenses they make callable.
    """

    toolkit: str
    files: Mapping[str, str]
    defenses: tuple[str, ...] = ()


class Source(Settings):
    """Where a case comes from: an adapter's name, a path, and the adapter's own options.

    >>> source = Source.parse("image_folder:suspects/train", {"size": 32})
    >>> source.adapter, source.path, source.options
    ('image_folder', 'suspects/train', {'size': 32})
    """

    adapter: str = Field(description="name of the adapter")
    path: str = Field(description="what it reads: a file, a folder, or a name")
    options: dict[str, Any] = Field({}, description="options of the adapter")

    _usable = field_validator("path")(usable_path)

    @classmethod
    def parse(cls, text: str, options: Mapping[str, Any] | None = None, *, where: str = "{argument:source}") -> Source:
        """Read ``ADAPTER:PATH``, the form of ``--from``."""
        adapter, colon, path = text.partition(":")
        if not (adapter and colon and path):
            raise SettingsError("a source is ADAPTER:PATH", where=where, found=text, allowed="e.g. image_folder:data")
        return cls.build({"adapter": adapter, "path": path, "options": dict(options or {})}, where=where)


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
    Options: ClassVar[type[Settings]] = Settings
    options: Settings
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
        raise SettingsError(f"{self.name} cannot write whole cases", where="{argument:to}", found=self.name)

    def placement(self, root: Path, defenses: Sequence[str]) -> Placement:
        """Return the files that make *defenses* callable by name inside the toolkit's checkout at *root*.

        They hold none of the toolkit's code. :func:`~elixir_plugin.runs.checkout.place` brings them there.

        :raises InputError: when *root* is no checkout of the toolkit.
        """
        raise SettingsError(f"{self.name} has no checkout to install into", where="toolkit", found=self.name)


def existing(path: Path, what: str, hint: str | None = None) -> Path:
    """Return *path* if it is there.

    :raises InputError: when it is not, or when that cannot be said.
    """
    refuse_unusable(path)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{what} not found", where=path, hint=hint) from None
    except OSError as error:  # a folder that may not be entered
        raise InputError(f"{what} cannot be read", where=path, found=str(error), hint=hint) from None
    return path


def get_adapter(name: str) -> type[Adapter]:
    """Return an adapter class by name.

    :raises SettingsError: for an unknown name, with the nearest known one.
    :raises PluginError: when it cannot be imported.

    >>> from pathlib import Path
    >>> case = get_adapter("testbed")({"size": 8, "model": False}).read(Path("badnets"), seed=0)
    >>> case.train
    ImageSet(1150 × (8, 8, 3), uint8, 10 classes)
    """
    cls: type[Adapter] = plugins().get("adapter", name)
    return cls

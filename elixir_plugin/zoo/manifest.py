"""``zoo.json``: what a set is, how it was made, how it is read, and the hash of every file. Read as untrusted input."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field

from .._version import __version__
from ..core.settings import Settings
from ..errors import InputError, SettingsError
from ..io.files import inside, write_json
from ..io.reading import read_json
from ..io.versions import installed

FILE = "zoo.json"
TABLE = "samples.csv"
SCHEMA = 1
Format = Literal["image_folder", "backdoorbench", "arrays"]
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "Pillow", "safetensors")


def _below(text: str) -> str:
    """Refuse whatever is not a plain path below a folder, in one spelling."""
    path = PurePosixPath(text)
    plain = text.isprintable() and "\\" not in text
    if not plain or path.is_absolute() or ".." in path.parts or str(path) != text or text == ".":
        raise ValueError("must be a path below the folder, with '/', without '..'")
    return text


Below = Annotated[str, AfterValidator(_below)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class FileFacts(Settings):
    """One file."""

    sha256: Sha256
    bytes: int = Field(ge=0)


class PartFacts(Settings):
    """One part of the set: train, clean, test, triggered.

    :param head: shape, type and number of classes.
    """

    samples: int = Field(ge=0)
    head: str = Field(max_length=100)
    sha256: Sha256


class ContentFacts(Settings):
    """What is read from the files; see :mod:`.content`."""

    sha256: Sha256
    parts: dict[Literal["train", "clean", "test", "triggered"], PartFacts]


class AttackFacts(Settings):
    """What the entry says, spelled out, and what it did."""

    poison: str
    settings: dict[str, Any]
    kind: Literal["dirty-label", "clean-label", "indiscriminate", "none"]
    poisoned: int = Field(ge=0)
    covers: int = Field(ge=0)


class BaseFacts(Settings):
    """What was poisoned.

    :param adapter: what read it; ``digits``: the embedded ones.
    :param options: of the testbed, without where the base lies.
    :param sha256: of the unpoisoned parts, as of every content.
    """

    adapter: str
    options: dict[str, Any]
    sha256: Sha256


class Reading(Settings):
    """How the set is read. Options that name code are no part of it: a manifest may come from anywhere.

    :param path: what the adapter is given.
    :param triggered: folder of the triggered test set, where the format of the others has no place for it.
    :param model: the suspect model, where it is an option of the adapter; likewise *classes* and *index*.
    """

    adapter: Format
    path: Below
    triggered: Below | None = None
    triggered_classes: Below | None = None
    model: Below | None = None
    classes: Below | None = None
    index: Below | None = None
    layout: Literal["nhwc"] | None = None
    num_classes: int | None = Field(None, ge=2)
    kind: Literal["dirty-label", "clean-label", "indiscriminate"] | None = None
    channels: Literal[1, 3] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def options(self, folder: Path, *, model: bool = True) -> dict[str, Any]:
        """Return the options of the adapter.

        :param folder: where the set lies.
        :param model: whether the model is to be read, where that can be chosen.
        :raises InputError: when a path leaves the folder.
        """
        names = ("classes", "index") + ("model",) * model
        paths = {name: getattr(self, name) for name in names}
        options = {name: str(inside(folder, path)) for name, path in paths.items() if path is not None}
        plain = ("layout", "num_classes", "kind", "channels", "mean", "std")
        return options | {name: value for name in plain if (value := getattr(self, name)) is not None}


class ModelFacts(Settings):
    """The suspect model.

    :param files: those that hold it.
    :param weights: their fingerprint, with normalisation.
    :param acc, asr: accuracy on the test set, share of triggered test samples that get the label the attacker wants.
    """

    architecture: str | None
    recipe: dict[str, Any]
    device: str
    threads: int
    files: tuple[Below, ...]
    weights: str
    acc: float | None = None
    asr: float | None = None


class Manifest(Settings):
    """The content of ``zoo.json``.

    :param environment: versions of what decides on bytes of files and on weights.
    """

    version: Literal[1] = Field(alias="schema")
    entry: str
    seed: int
    attack: AttackFacts
    base: BaseFacts
    content: ContentFacts
    read: Reading
    model: ModelFacts | None = None
    environment: dict[str, str]
    files: dict[Below, FileFacts]


def environment() -> dict[str, str]:
    """Return the versions that decide on the bytes of image files and on the weights of models."""
    facts = {"elixir_plugin": __version__, "python": platform.python_version(), "machine": platform.machine()}
    facts |= {name: installed(name) or "not installed" for name in PACKAGES}
    return facts | {"cpu": torch.backends.cpu.get_cpu_capability()}


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest in *folder*.

    :raises InputError: when there is none, or it is not one of this schema.
    """
    file = folder / FILE
    if not folder.is_dir():
        raise InputError("no such folder", where=folder, allowed="a folder that 'elixir-plugin zoo make' wrote")
    content = read_json(file)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise InputError("not a manifest of the zoo", where=file, found=found, allowed=f"schema {SCHEMA}")
    try:
        return Manifest.build(content, where=str(file))
    except SettingsError as error:
        raise InputError(
            "not a manifest of the zoo", where=file, found=error.found, allowed=error.allowed, hint=error.hint
        ) from None


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write the manifest, which makes the folder a set of the zoo."""
    values: Mapping[str, Any] = manifest.model_dump(mode="json", by_alias=True)
    write_json(folder / FILE, values)

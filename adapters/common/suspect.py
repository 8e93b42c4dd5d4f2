"""The suspect model that options name: a saved Classifier, or a file of weights and the network they belong to."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field
from torch import nn

from ...core.classifier.architectures import fitting_architectures
from ...core.classifier.checkpoints import load_weights, read_weights
from ...core.classifier.classifier import Classifier, build_module
from ...core.classifier.copies import copied
from ...core.classifier.fresh import drawing
from ...core.classifier.intake import examined
from ...core.classifier.matching import Make
from ...core.classifier.weights import build_by_name, read_facts
from ...core.images import Images
from ...core.settings import Settings
from ...errors import InputError, SettingsError, nearest
from ...io.folders import is_folder
from ...io.opening import is_there
from ...io.reading import read_tensors

CLASSES = ("num_classes", "n_classes", "nb_classes", "classes", "num_labels")  # how factories call these
CHANNELS = ("channels", "in_channels", "in_chans", "num_channels")
OF_FILES = ("weights", "mean", "std", "input_size")  # a saved Classifier says these itself


def _numbers(value: Any) -> Any:
    """Accept one number for a tuple of one, and numbers with commas between them."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    return (value,) if isinstance(value, int | float) else value


def _placed(value: Any) -> Any:
    """Spell the path in ``FILE.py:NAME`` out from the root, as that of every other file."""
    file, colon, name = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    return f"{Path(file).absolute()}:{name}" if colon and file.endswith(".py") else value


PerChannelOption = Annotated[tuple[float, ...] | None, BeforeValidator(_numbers)]


class ModelOptions(Settings):
    """Where the suspect model is.

    :param model: the suspect model: folder of a saved :class:`~elixir_plugin.Classifier`, or a file of weights
        (``.pth``, ``.pt``, ``.safetensors``), bare or in a checkpoint.
    :param architecture: what the weights belong to: a built-in architecture, a torchvision classification model, or
        your own as ``package.module:factory`` or ``file.py:factory``; your own is imported and called.
    :param weights: which weights of a checkpoint that holds several: their key or prefix.
    :param mean, std: normalisation in front of a file of weights: one number, or one per channel; default: none.
    :param input_size: edge length that a file of weights needs; images are resized to it.
    """

    added: ClassVar[Mapping[str, Any]] = MappingProxyType(dict.fromkeys(("architecture", *OF_FILES)))

    model: Path | None = None
    architecture: Annotated[str | None, BeforeValidator(_placed)] = None
    weights: str | None = None
    mean: PerChannelOption = None
    std: PerChannelOption = None
    input_size: int | None = Field(None, ge=1, le=4096)


def suspect_model(
    options: ModelOptions,
    images: Images | None,
    notes: list[str],
    num_classes: int | None = None,
    *,
    channels: int = 3,
) -> Classifier | None:
    """Read the model that *options* name, or return None when they name none.

    :param images: a few of the images it is for, ``[n, H, W, C]``; None: they are not read yet, and the caller has to
        look at what comes back with :func:`~elixir_plugin.core.classifier.intake.examined`.
    :param channels: of the images, where there are none yet.
    :param notes: what was read from where is added here.
    :param num_classes: of the data; None: as the model says.
    :raises InputError: when there is no such model, weights do not fit, or the model cannot take the images.
    """
    if options.model is None:
        given = [name for name in ("architecture", *OF_FILES) if getattr(options, name) is not None]
        if given:
            raise SettingsError(
                "there is no model for this option", where=f"{{option:{given[0]}}}", hint="name it: {option:model=FILE}"
            )
        return None
    channels = channels if images is None else int(images.shape[3])
    if is_folder(options.model):
        model = _saved(options, options.model, channels)
        return model if images is None else examined(model, images)
    if not is_there(options.model):
        raise InputError(
            "model not found",
            where=options.model,
            allowed="a folder with model.json and model.safetensors, or a file of weights",
            hint="write one with Classifier(...).save(folder), or torch.save(module.state_dict(), file)",
        )
    model = _from_weights(options, options.model, channels, num_classes, notes)
    return model if images is None else examined(model, images)


def _saved(options: ModelOptions, folder: Path, channels: int) -> Classifier:
    if not is_there(folder / "model.json"):
        raise InputError(
            "model not found",
            where=folder,
            allowed="a folder with model.json and model.safetensors",
            hint="write one with Classifier(...).save(folder), or name a file of weights",
        )
    if given := [name for name in OF_FILES if getattr(options, name) is not None]:
        raise SettingsError(
            "a saved Classifier says this itself",
            where=f"{{option:{given[0]}}}",
            found=getattr(options, given[0]),
            hint="leave the option out, or name a file of weights",
        )
    facts = read_facts(folder / "model.json")
    if options.architecture is None or options.architecture == facts.architecture:
        return Classifier.load(folder)
    if facts.architecture is not None:
        raise SettingsError(
            "the saved model has another architecture",
            where="{option:architecture}",
            found=options.architecture,
            allowed=facts.architecture,
        )
    with drawing(0):
        make = partial(maker(options.architecture, channels), facts.num_classes)
        module = build_by_name(make, read_tensors(folder / "model.safetensors"), where=str(folder))
    model = Classifier.load(folder, module)
    model.architecture = _known(options.architecture)
    return model


def _from_weights(
    options: ModelOptions, file: Path, channels: int, num_classes: int | None, notes: list[str]
) -> Classifier:
    name = options.architecture
    if name is None:
        fits = fitting_architectures(read_weights(file), channels)
        raise InputError(
            "the network of these weights is not named",
            where=file,
            found=f"weights that fit {' and '.join(fits)}" if fits else "weights that fit no known architecture",
            hint=f"name it: {{option:architecture={fits[0] if fits else 'nets.py:make_net'}}}",
        )
    module, classes, told = load_weights(
        file, maker(name, channels), num_classes, key=options.weights, name=name, channels=channels
    )
    if options.mean is None and options.std is None:
        told.append(f"no normalisation is known for {file.name}: none is applied (options mean, std)")
    notes += told
    return Classifier(
        module,
        num_classes or (2 if classes == 1 else classes),
        mean=options.mean or 0.0,
        std=options.std or 1.0,
        channels=channels,
        architecture=_known(name) if classes != 1 else None,
        input_size=options.input_size,
    ).eval()


def _known(architecture: str) -> str | None:
    """Return the name under which the module can be built again; nothing in a file may name code to import."""
    return None if ":" in architecture else architecture


def maker(architecture: str, channels: int) -> Make:
    """Return what builds a module for a number of classes.

    :param architecture: a name, or the place of your own code: ``package.module:factory``, ``file.py:factory``. The
        factory is a function or class; it gets the numbers of classes and channels where it has parameters for them. It
        may also be a module that is there already.
    :raises SettingsError: when there is no such thing.
    """
    place, colon, name = architecture.rpartition(":")
    if not colon:
        return lambda classes: build_module(architecture, classes, channels)
    found: Any = _imported(place)
    for part in name.split("."):
        if not hasattr(found, part):
            raise SettingsError(
                "no such factory",
                where=place,
                found=name,
                allowed="a function or class that makes a module",
                hint=nearest(part, dir(found)),
            )
        found = getattr(found, part)
    return lambda classes: _made(found, architecture, classes, channels)


def _imported(place: str) -> ModuleType:
    """Import the user's own code, which only an option can name."""
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        spec = importlib.util.spec_from_file_location(f"elixir_plugin_own_{Path(place).stem}", place)
        assert spec is not None and spec.loader is not None
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(Path(place).parent))  # what lies beside it is imported as if it were run
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(Path(place).parent))
    except Exception as error:  # user code runs here
        raise SettingsError(
            "the code that builds the model cannot be imported",
            where="{option:architecture}",
            found=f"{place}: {type(error).__name__}: {error}",
            allowed="package.module:factory or file.py:factory",
            hint=None if place.endswith(".py") else "name the file it is in: {option:architecture=nets.py:make_net}",
        ) from error
    return module


def _made(factory: Any, where: str, classes: int, channels: int) -> nn.Module:
    if isinstance(factory, nn.Module):
        return copied(factory)
    values = dict.fromkeys(CLASSES, classes) | dict.fromkeys(CHANNELS, channels)
    try:
        parameters = inspect.signature(factory).parameters
        given = {name: value for name, value in values.items() if name in parameters}
        open_ones = [
            each.name
            for each in parameters.values()
            if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD and each.name not in given
        ]
        if len(open_ones) == 1 and not set(CLASSES) & set(given):
            given[open_ones[0]] = classes
        module = factory(**given)
    except Exception as error:  # user code runs here
        raise SettingsError(
            "the code that builds the model fails",
            where=where,
            found=f"{type(error).__name__}: {error}",
            allowed="a function that needs at most num_classes and channels",
        ) from error
    if not isinstance(module, nn.Module):
        raise SettingsError("no model was built", where=where, found=type(module).__name__, allowed="an nn.Module")
    return module

"""What ``elixir.py`` in a backdoor-toolbox checkout calls: its own scripts, with our defenses among their names.

The scripts run as they are. What changes around them, for this one process:

- ``-cleanser`` and ``-defense`` accept our names; once they are parsed, the defense runs and leaves its files where
  the script then finds them.
- On a machine without CUDA, ``.cuda()`` does nothing, and what was saved on a GPU is loaded to the CPU.
- The suspect model is the network that the checkout's ``config.py`` names.
- ``train_on_cleansed_set.py`` trains on the purified images, where the defense purified them.

A front end like the command line: it prints, and it turns errors into messages and exit codes.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import os
import runpy
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from ...errors import ElixirError, SettingsError, nearest
from ...io.text import escape_control, with_flags
from ...plugins import plugins

OURS = ("--preset", "--set", "--option", "--device", "--any-model")  # flags that come before the script
RUNS = "elixir_runs"  # in the set's folder, where all other results are
FLAGS = {"cleanser": ("detect", "purify"), "defense": ("repair", "train")}  # what a flag of theirs may name of ours


def main(root: Path, arguments: Sequence[str] | None = None) -> None:
    """Run a script of the checkout at *root*.

    :param arguments: our options, the script, its flags; default: those of the process.
    """
    try:
        own = _parse(sys.argv[1:] if arguments is None else arguments)
        script = _script(root, own.script)
        os.environ["CUDA_VISIBLE_DEVICES"] = _devices(own.flags)  # as the scripts do, but before anything uses CUDA
        os.chdir(root)
        sys.path[:] = [str(root), *(path for path in sys.path if Path(path or ".").resolve() != root)]
        sys.argv = [own.script, *own.flags]
        _accept_our_names()
        _do_without_cuda()
        _after_parsing(lambda args: _prepare(own, args))
        runpy.run_path(str(script), run_name="__main__")
    except ElixirError as error:
        click.echo(escape_control(f"error: {error.told(with_flags(OURS))}"), err=True)
        sys.exit(error.exit_code)


def ours(flag: str, *, baselines: bool = True) -> list[str]:
    """Return the names of our defenses that ``-cleanser`` or ``-defense`` accepts.

    :param baselines: with the names of baselines, which are accepted, and not listed in the help.
    """
    offers = plugins().offers()["defense"] if baselines else plugins().defenses()
    return sorted(name for name, offer in offers.items() if offer.entry.kind in FLAGS[flag])


class Choices(list[str]):
    """What a flag of the toolkit accepts: what it lists, and *more*."""

    def __init__(self, listed: Iterable[str], more: Iterable[str]) -> None:
        super().__init__(listed)
        self._more = frozenset(more)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self._more


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="elixir.py",
        description="Run a script of this checkout with the defenses of elixir_plugin among its own.",
        epilog="; ".join(f"-{flag} also takes {', '.join(ours(flag, baselines=False))}" for flag in FLAGS)
        + "; both take baselines by name",
    )
    parser.add_argument("--preset", help="named settings of the defense; see 'elixir-plugin show NAME'")
    parser.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting; repeatable")
    parser.add_argument("-o", "--option", action="append", default=[], metavar="KEY=VALUE", help="adapter option")
    parser.add_argument(
        "--any-model", action="store_true", help="go on with a model that does not fit the clean labels"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (one of -devices)")
    parser.add_argument("script", help="cleanser.py, train_on_cleansed_set.py, other_defense.py, test_model.py, …")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="the script's own flags")
    return parser.parse_args(list(arguments))


def _script(root: Path, name: str) -> Path:
    known = sorted(path.name for path in root.glob("*.py"))
    if name not in known:
        raise SettingsError("no such script", where=root, found=name, hint=nearest(name, known) or "e.g. cleanser.py")
    return root / name


def _devices(flags: Sequence[str]) -> str:
    parser = argparse.ArgumentParser(add_help=False, prefix_chars="-")
    parser.add_argument("-devices", default=os.environ.get("CUDA_VISIBLE_DEVICES", "0"))
    return str(parser.parse_known_args(list(flags))[0].devices)


def _accept_our_names() -> None:
    original = argparse.ArgumentParser.add_argument

    def add_argument(self: Any, *names: Any, **values: Any) -> Any:
        flag = str(names[0]).lstrip("-") if names else ""
        if flag in FLAGS and values.get("choices") is not None:
            theirs = list(values["choices"])
            listed = (name for name in ours(flag, baselines=False) if name not in theirs)
            values["choices"] = Choices([*theirs, *listed], ours(flag))
        return original(self, *names, **values)

    argparse.ArgumentParser.add_argument = add_argument  # type: ignore[method-assign]


def _after_parsing(prepare: Any) -> None:
    """Call *prepare* with the arguments of the script, once: when it has parsed them."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self: Any, *given: Any, **values: Any) -> Any:
        argparse.ArgumentParser.parse_args = original  # type: ignore[method-assign]
        args = original(self, *given, **values)
        prepare(args)
        return args

    argparse.ArgumentParser.parse_args = parse_args  # type: ignore[method-assign]


def _do_without_cuda() -> None:
    import torch  # noqa: PLC0415  (after CUDA_VISIBLE_DEVICES is set)

    if torch.cuda.is_available():
        return
    load = torch.load

    def load_to_cpu(*given: Any, **values: Any) -> Any:
        return load(*given, **{"map_location": "cpu", **values})

    torch.load = load_to_cpu
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign,assignment]


def _prepare(own: argparse.Namespace, given: argparse.Namespace) -> None:
    """Run the defense that the script was asked for, unless what it leaves is there."""
    args = copy.copy(given)
    config, supervisor = importlib.import_module("config"), importlib.import_module("utils.supervisor")
    if getattr(args, "trigger", None) is None:
        args.trigger = config.trigger_default[args.dataset][args.poison_type]
    cleanser, defense = getattr(args, "cleanser", None), getattr(args, "defense", None)
    if cleanser in ours("cleanser"):
        expected = Path(supervisor.get_cleansed_set_indices_dir(args))
        if own.script in ("cleanser.py", "train_on_cleansed_set.py"):
            _provide(own, args, cleanser, expected, again=False)
        if own.script == "train_on_cleansed_set.py":
            _train_on_purified(Path(supervisor.get_poison_set_dir(args)), cleanser)
    if defense in ours("defense"):
        anew = own.script == "other_defense.py"
        _provide(own, args, defense, Path(supervisor.get_model_dir(args, defense=True)), again=anew)
        if anew:  # it knows its own defenses only, and would end here with an error
            sys.exit(0)


def _provide(own: argparse.Namespace, args: argparse.Namespace, defense: str, expected: Path, *, again: bool) -> None:
    """Make sure that *expected* is there, by running *defense*."""
    if expected.exists() and not again:
        click.echo(escape_control(f"{defense}: taken from {expected}; remove this file to run it again"))
        return
    kind = "cleansed_set_indices_other_" if expected.name.startswith("cleansed") else "defended_"
    written = [path for path in _run(own, args, defense) if path.name.startswith(kind)]
    if written and not expected.exists():  # the toolkit names it otherwise, e.g. with -no_aug
        shutil.copyfile(written[0], expected)


def _run(own: argparse.Namespace, args: argparse.Namespace, defense: str) -> tuple[Path, ...]:
    from ...core.settings import parse_assignments  # noqa: PLC0415  (slow, and not needed for --help)
    from ...runs.resolve import identity_of  # noqa: PLC0415
    from ...runs.run import run_defense  # noqa: PLC0415
    from ...runs.spec import RunSpec  # noqa: PLC0415

    given = parse_assignments(own.option, where="--option")
    options = {**_options(args), **_network(args, defense, given), **given}
    folder = Path(importlib.import_module("utils.supervisor").get_poison_set_dir(args)).absolute()
    spec = {
        "defense": defense,
        "source": {"adapter": "backdoor_toolbox", "path": str(folder), "options": options},
        "settings": parse_assignments(own.set, where="--set"),
        "preset": own.preset,
        "seed": args.seed,
        "device": own.device,
        "any_model": own.any_model,
    }
    built = RunSpec.build(spec, where="elixir.py")
    place = folder / RUNS / f"{defense}-{identity_of(built)}"
    result = run_defense(built.model_copy(update={"out": str(place)}), quiet=False, rewrite=True)
    for line in result.lines():
        click.echo(escape_control(line))
    return result.written


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Say in our adapter's words what the toolkit's flags say."""
    config, supervisor = importlib.import_module("config"), importlib.import_module("utils.supervisor")
    options: dict[str, Any] = {"seed": args.seed}
    model = Path(supervisor.get_model_dir(args))
    if model.is_file():
        options["model"] = str(model.absolute())
    if getattr(args, "no_normalize", False):
        options |= {"mean": [0.0], "std": [1.0]}
    return options | trigger_options(args, config)


def trigger_options(args: argparse.Namespace, config: Any) -> dict[str, Any]:
    """Return the options that say which trigger the scripts put on test images, where flags or *config* decide."""
    from .triggers import ADAPTIVE_PATCHES, FAINT, ONE_PICTURE, SOURCE_CLASS  # noqa: PLC0415

    folder, attack = Path(config.triggers_dir).absolute(), args.poison_type
    if attack == "adaptive_patch":
        said = [getattr(config, f"adaptive_patch_test_trigger_{part}", {}) for part in ("names", "alphas")]
        names, alphas = (tuple(each.get(args.dataset, ())) for each in said)
        usual = ADAPTIVE_PATCHES.get(args.dataset, ())
        if (names, alphas) == (usual, (1,) * len(usual)):
            return {"trigger": str(folder)}
        click.echo("note: config.py names other test triggers of adaptive_patch than are known here: ASR is left to it")
        return {"trigger": "none"}
    if attack not in ONE_PICTURE or not (folder / args.trigger).is_file():
        return {}
    options: dict[str, Any] = {"trigger": str(folder / args.trigger)}
    given, alpha = (getattr(args, name, None) for name in ("test_alpha", "alpha"))
    if attack in FAINT and (given is not None or (alpha is not None and alpha != round(alpha, 3))):
        options["alpha"] = alpha if given is None else given  # else the name of the folder says it, in three decimals
    source = getattr(config, "source_class", SOURCE_CLASS)
    if attack == "TaCT" and source != SOURCE_CLASS:
        options["source_class"] = source
    return options


def _network(args: argparse.Namespace, defense: str, given: dict[str, Any]) -> dict[str, Any]:
    """Name the checkout's own network, and leave out a model that is none of it where the defense can do without."""
    from ...defense import get_defense  # noqa: PLC0415
    from .export import ARCHITECTURE, DATASETS  # noqa: PLC0415
    from .network import misfit, network_of  # noqa: PLC0415

    if "architecture" in given:
        return {}
    name = network_of(args)
    options = {} if name in (None, ARCHITECTURE) else {"architecture": name}
    model = Path(importlib.import_module("utils.supervisor").get_model_dir(args))
    if name is None or "model" in given or not model.is_file() or "model" in get_defense(defense).needs:
        return options
    if error := misfit(model, name, DATASETS[args.dataset].num_classes):
        click.echo(
            escape_control(f"note: {defense} goes without a suspect model; {model}: {error.what}: {error.found}")
        )
        options["model"] = "none"
    return options


def _train_on_purified(folder: Path, defense: str) -> None:
    """Let the script see the purified set in place of the suspect one."""
    from .write import purified_name  # noqa: PLC0415

    purified = folder / purified_name(defense)
    if not purified.is_dir():
        return
    images = purified / ("imgs" if (purified / "imgs").is_file() else "data")
    places = {folder / "imgs": images, folder / "data": images, folder / "labels": purified / "labels"}
    dataset = importlib.import_module("utils.tools").IMG_Dataset
    original = dataset.__init__

    def init(self: Any, data_dir: str, label_path: str, *given: Any, **values: Any) -> None:
        moved = (str(places.get(Path(path), path)) for path in (data_dir, label_path))
        original(self, *moved, *given, **values)

    dataset.__init__ = init
    click.echo(escape_control(f"{defense}: training on {purified}"))

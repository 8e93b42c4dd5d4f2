"""What import-linter does not see: late imports, front doors, cheap listing, and paths that users already import from.

The layers themselves are contracts in ``pyproject.toml``; ``.ci/run`` holds them with ``lint-imports``.
"""

import ast
import os
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "elixir_plugin"
SOURCES = sorted([*(ROOT / PACKAGE).rglob("*.py"), *(ROOT / "adapters").rglob("*.py")])
ADAPTERS = [path for path in SOURCES if "adapters" in path.relative_to(ROOT).parts]


def module_name(path):
    """Return the dotted name under which *path* is installed; ``adapters/`` lies inside the package."""
    relative = path.relative_to(ROOT).with_suffix("")
    parts = relative.parts if relative.parts[0] == PACKAGE else (PACKAGE, *relative.parts)
    return ".".join(parts).removesuffix(".__init__")


@cache
def nodes(path):
    """Return every node of *path*'s syntax tree."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def sources_of(path):
    """Return the modules that *path* imports names from, anywhere in it, by their dotted names."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    modules = {module_name(each) for each in SOURCES}
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom):
            climbed = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*climbed, *([node.module] if node.module else [])])
            found |= {full if (full := f"{source}.{alias.name}") in modules else source for alias in node.names}
    return found


def test_the_reader_of_imports_works():
    assert f"{PACKAGE}.hookspecs" in sources_of(ROOT / PACKAGE / "builtin.py")
    assert f"{PACKAGE}.core.images" in sources_of(ROOT / PACKAGE / "testbed" / "poisons.py")
    assert f"{PACKAGE}.hookspecs" in sources_of(ROOT / "adapters" / "__init__.py")


def test_nobody_imports_the_front_door_of_a_package_that_it_lives_in():
    for path in SOURCES:
        own = module_name(path) if path.name != "__init__.py" else module_name(path).rpartition(".")[0]
        around = {own.rsplit(".", n)[0] for n in range(1, own.count(".") + 1)}
        assert not sources_of(path) & around, path  # a circle: the front door imports what lies behind it


def test_adapters_import_by_relative_names():
    for path in ADAPTERS:
        absolute = {node.module or "" for node in nodes(path) if isinstance(node, ast.ImportFrom) and node.level == 0}
        assert not {name.split(".")[0] for name in absolute} & {PACKAGE, "adapters"}, (
            path
        )  # a second copy of each class


HOSTS = {"art": "art", "trojanvision": "trojanvision", "trojanzoo": "trojanvision"}  # package -> its adapter


def test_a_toolkit_is_imported_by_its_own_adapter_alone_and_late():
    for path in SOURCES:
        late = {id(node) for each in nodes(path) if isinstance(each, ast.FunctionDef) for node in ast.walk(each)}
        for node in nodes(path):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in {each.split(".")[0] for each in names} & set(HOSTS):
                assert path.parent.name == HOSTS[name], path
                assert id(node) in late, f"{path}: {name} is imported before it is needed"
            read = {each.split(".")[0] for each in names} & {"core", "backdoorbox"}
            assert not read, path  # they are read by what their objects have


HEAVY = ("torch", "torchvision", "numpy", "pydantic", "sklearn", "diffusers", "matplotlib", "PIL", "safetensors")


@pytest.mark.parametrize(
    "code",
    [
        "import elixir_plugin, elixir_plugin.hookspecs, elixir_plugin.adapters",
        "import elixir_plugin.plugins; elixir_plugin.plugins.plugins().offers()",
        "import elixir_plugin.cli",
        "import elixir_plugin; dir(elixir_plugin); elixir_plugin.hookimpl; elixir_plugin.ElixirError",
    ],
)
def test_listing_and_help_cost_no_heavy_import(code):
    program = f"{code}\nimport sys\nprint(*sorted(set({HEAVY}) & set(sys.modules)))"
    environment = {**os.environ, "ELIXIR_PLUGINS": ""}
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment, timeout=60
    )
    assert (out.returncode, out.stderr) == (0, "")
    assert out.stdout.split() == []


def test_every_public_name_can_be_imported():
    import elixir_plugin

    for name in elixir_plugin.__all__:
        assert getattr(elixir_plugin, name) is not None
    assert set(elixir_plugin.__all__) <= set(dir(elixir_plugin))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = elixir_plugin.no_such_name


FORMER = [  # in the README, the docs, the example extension, or in files placed in users' checkouts
    ("elixir_plugin.adapter", "Adapter"),
    ("elixir_plugin.adapters.arrays", "Arrays"),
    ("elixir_plugin.adapters.backdoor_toolbox", "BackdoorToolbox"),
    ("elixir_plugin.adapters.backdoor_toolbox_launcher", "main"),
    ("elixir_plugin.adapters.backdoorbench", "BackdoorBench"),
    ("elixir_plugin.adapters.backdoorbench_script", "main"),
    ("elixir_plugin.adapters.backdoorbox", "install"),
    ("elixir_plugin.adapters.backdoorbox", "D3"),
    ("elixir_plugin.adapters.image_folder", "ImageFolder"),
    ("elixir_plugin.adapters.trojanvision", "register"),
    ("elixir_plugin.case", "Origin"),
    ("elixir_plugin.case", "Case"),
    ("elixir_plugin.cli", "main"),
    ("elixir_plugin.config", "RunSpec"),
    ("elixir_plugin.config", "Settings"),
    ("elixir_plugin.config", "Source"),
    ("elixir_plugin.defense", "Card"),
    ("elixir_plugin.defenses.confusion_training", "ConfusionTraining"),
    ("elixir_plugin.defenses.d3", "D3"),
    ("elixir_plugin.defenses.dataelixir", "DataElixir"),
    ("elixir_plugin.defenses.eclipse", "Eclipse"),
    ("elixir_plugin.defenses.image_variations", "ImageVariations"),
    ("elixir_plugin.diffusion.base", "Denoiser"),
    ("elixir_plugin.diffusion.closed_form", "GaussianDenoiser"),
    ("elixir_plugin.diffusion.denoiser", "load_denoiser"),
    ("elixir_plugin.diffusion.generators", "ImageGenerator"),
    ("elixir_plugin.diffusion.schedule", "Schedule"),
    ("elixir_plugin.errors", "InputError"),
    ("elixir_plugin.evaluation", "evaluate"),
    ("elixir_plugin.hookspecs", "Entry"),
    ("elixir_plugin.plugins", "Plugins"),
    ("elixir_plugin.storage", "atomic_folder"),
    ("elixir_plugin.storage", "write_csv"),
    ("elixir_plugin.testbed.base", "Backdoor"),
    ("elixir_plugin.testbed.base", "BackdoorSettings"),
    ("elixir_plugin.testing", "check_adapter"),
    ("elixir_plugin.testing", "check_defense"),
    ("elixir_plugin.testing", "tiny_case"),
    ("elixir_plugin.training", "Recipe"),
    ("elixir_plugin.training", "Samples"),
    ("elixir_plugin.training", "ShuffledBatches"),
    ("elixir_plugin.training", "train"),
]


@pytest.mark.parametrize(("module", "name"), FORMER)
def test_names_are_still_importable_from_where_users_import_them(module, name):
    assert getattr(import_module(module), name) is not None

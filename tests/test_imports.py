"""Imports point one way: adapters → core ← defenses. Read from the source, so that nothing has to be imported."""

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "elixir_plugin"
FRONT = {"cli", "__main__"}
TOOLKITS = ("backdoorbench", "backdoor_toolbox", "backdoorbox", "trojanvision", "trojanzoo", "art")


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
def imports(path):
    """Return every dotted name that *path* imports, anywhere in it; of ``from a import b`` both ``a`` and ``a.b``."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            climbed = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*climbed, *([node.module] if node.module else [])])
            found |= {source} | {f"{source}.{alias.name}" for alias in node.names}
    return found


@cache
def defines_a_defense(path):
    classes = (node for node in nodes(path) if isinstance(node, ast.ClassDef))
    return any(ast.unparse(base).split(".")[-1] == "Defense" for each in classes for base in each.bases)


def starts(names, *packages):
    return {name for name in names if any(name == each or name.startswith(f"{each}.") for each in packages)}


def breaches(paths, forbidden):
    """Return what each of *paths* imports that *forbidden* picks from its imports; nothing where all is well."""
    return {module_name(path): found for path in paths if (found := forbidden(imports(path)))}


SOURCES = sorted([*(ROOT / PACKAGE).rglob("*.py"), *(ROOT / "adapters").rglob("*.py")])
CORE = [path for path in SOURCES if path.parent.name == PACKAGE and path.stem not in FRONT]
DEFENSES = [path for path in SOURCES if "defenses" in path.parts]
ADAPTERS = [path for path in SOURCES if "adapters" in path.relative_to(ROOT).parts]
INNER = [path for path in SOURCES if path.parent.name in ("testbed", "diffusion", "report")]


def test_the_reader_of_imports_works():
    found = imports(ROOT / PACKAGE / "builtin.py")
    assert {f"{PACKAGE}.hookspecs", f"{PACKAGE}.hookspecs.Entry"} <= found
    assert f"{PACKAGE}.case.ImageSet" in imports(ROOT / PACKAGE / "testbed" / "poisons.py")
    assert f"{PACKAGE}.hookspecs.hookimpl" in imports(ROOT / "adapters" / "__init__.py")
    assert breaches(ADAPTERS, lambda names: starts(names, f"{PACKAGE}.hookspecs"))[f"{PACKAGE}.adapters"]
    assert all((CORE, INNER, DEFENSES, ADAPTERS)) and any(map(defines_a_defense, DEFENSES))


def test_core_imports_neither_adapters_nor_defenses_nor_toolkits():
    def toolkits(names):
        return {name for name in names if set(name.lower().split(".")) & set(TOOLKITS)}

    paths = [*CORE, *INNER]
    assert not breaches(paths, lambda names: starts(names, f"{PACKAGE}.adapters", f"{PACKAGE}.defenses", "adapters"))
    assert not breaches(paths, toolkits)


def test_defenses_import_neither_each_other_nor_adapters():
    assert not breaches(DEFENSES, lambda names: starts(names, f"{PACKAGE}.adapters", f"{PACKAGE}.testbed", "adapters"))
    for path in DEFENSES:
        others = {module_name(each) for each in DEFENSES if each != path and defines_a_defense(each)}
        assert not starts(imports(path), *others), module_name(path)


def test_helpers_beside_the_defenses_serve_one_defense_each():
    for helper in DEFENSES:
        if helper.name != "__init__.py" and not defines_a_defense(helper):
            users = [path for path in DEFENSES if defines_a_defense(path) and module_name(helper) in imports(path)]
            assert len(users) <= 1, f"{module_name(helper)} is shared: move it to the core"


def test_adapters_import_neither_defenses_nor_testbed():
    forbidden = (f"{PACKAGE}.defenses", f"{PACKAGE}.testbed", f"{PACKAGE}.builtin")
    assert not breaches(ADAPTERS, lambda names: starts(names, *forbidden))


def test_adapters_import_by_relative_names():
    for path in ADAPTERS:
        absolute = {node.module or "" for node in nodes(path) if isinstance(node, ast.ImportFrom) and node.level == 0}
        assert not starts(absolute, PACKAGE, "adapters"), path  # "adapters" would be a second copy of every class


HOSTS = {"art": "art", "trojanvision": "trojanvision", "trojanzoo": "trojanvision"}  # package -> its adapter


def test_a_toolkit_is_imported_by_its_own_adapter_alone_and_late():
    for path in SOURCES:
        late = {id(node) for each in nodes(path) if isinstance(each, ast.FunctionDef) for node in ast.walk(each)}
        for node in nodes(path):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in {each.split(".")[0] for each in names} & set(HOSTS):
                assert path in ADAPTERS and path.stem.lstrip("_").startswith(HOSTS[name]), path
                assert id(node) in late, f"{path}: {name} is imported before it is needed"
            read = {each.split(".")[0] for each in names} & {"core", "backdoorbox"}
            assert not read, path  # they are read by what their objects have


def test_nobody_imports_the_command_line():
    paths = [path for path in SOURCES if path.name != "__main__.py"]
    assert not breaches(paths, lambda names: starts(names, f"{PACKAGE}.cli", f"{PACKAGE}.__main__"))


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

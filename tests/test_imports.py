"""Imports point one way: adapters → core ← defenses. Read from the source, so that nothing has to be imported."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "elixir_plugin"
TOOLKITS = ("backdoorbench", "backdoor_toolbox", "backdoorbox", "trojanvision", "trojanzoo", "art")


def module_name(path):
    """Return the dotted name under which *path* is installed; ``adapters/`` lies inside the package."""
    relative = path.relative_to(ROOT).with_suffix("")
    parts = relative.parts if relative.parts[0] == PACKAGE else (PACKAGE, *relative.parts)
    return ".".join(parts).removesuffix(".__init__")


def imports(path):
    """Return every dotted name that *path* imports, anywhere in it; of ``from a import b`` both ``a`` and ``a.b``."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            climbed = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*climbed, *([node.module] if node.module else [])])
            found |= {source} | {f"{source}.{alias.name}" for alias in node.names}
    return found


def defines_a_defense(path):
    classes = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ClassDef))
    return any(ast.unparse(base).split(".")[-1] == "Defense" for each in classes for base in each.bases)


def starts(names, *packages):
    return {name for name in names if any(name == each or name.startswith(f"{each}.") for each in packages)}


def ids(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


SOURCES = sorted([*(ROOT / PACKAGE).rglob("*.py"), *(ROOT / "adapters").rglob("*.py")])
DEFENSES = [path for path in SOURCES if "defenses" in path.relative_to(ROOT).parts[:-1]]
ADAPTERS = [path for path in SOURCES if "adapters" in path.relative_to(ROOT).parts]
OUTER = {"cli", "__main__", "builtin"}
INNER = [
    path
    for path in SOURCES
    if path not in [*DEFENSES, *ADAPTERS] and not OUTER & set(path.relative_to(ROOT).with_suffix("").parts)
]


def test_the_reader_of_imports_works():
    found = imports(ROOT / PACKAGE / "builtin.py")
    assert {f"{PACKAGE}.hookspecs", f"{PACKAGE}.hookspecs.Entry"} <= found
    assert f"{PACKAGE}.core.images.ImageSet" in imports(ROOT / PACKAGE / "testbed" / "poisons.py")
    assert f"{PACKAGE}.hookspecs.hookimpl" in imports(ROOT / "adapters" / "__init__.py")


@pytest.mark.parametrize("path", INNER, ids=ids(INNER))
def test_core_imports_neither_adapters_nor_defenses_nor_toolkits(path):
    names = imports(path)
    assert not starts(names, f"{PACKAGE}.adapters", f"{PACKAGE}.defenses", "adapters")
    assert not {name for name in names if set(name.lower().split(".")) & set(TOOLKITS)}


@pytest.mark.parametrize("path", DEFENSES, ids=ids(DEFENSES))
def test_defenses_import_neither_each_other_nor_adapters(path):
    names = imports(path)
    assert not starts(names, f"{PACKAGE}.adapters", f"{PACKAGE}.testbed", "adapters")
    own = module_name(path).split(".")[:3]
    assert {".".join(name.split(".")[:3]) for name in starts(names, f"{PACKAGE}.defenses")} <= {".".join(own)}


@pytest.mark.parametrize("path", ADAPTERS, ids=ids(ADAPTERS))
def test_adapters_import_neither_defenses_nor_testbed(path):
    assert not starts(imports(path), f"{PACKAGE}.defenses", f"{PACKAGE}.testbed", f"{PACKAGE}.builtin")


@pytest.mark.parametrize("path", ADAPTERS, ids=ids(ADAPTERS))
def test_adapters_import_by_relative_names(path):
    absolute = [
        node.module or ""
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level == 0
    ]
    assert not starts(set(absolute), PACKAGE, "adapters")  # "adapters" would be a second copy of every class


HOSTS = {"art": "art", "trojanvision": "trojanvision", "trojanzoo": "trojanvision"}  # package -> its adapter


@pytest.mark.parametrize("path", SOURCES, ids=ids(SOURCES))
def test_a_toolkit_is_imported_by_its_own_adapter_alone_and_late(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = {id(node) for each in ast.walk(tree) if isinstance(each, ast.FunctionDef) for node in ast.walk(each)}
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        for name in {each.split(".")[0] for each in names} & set(HOSTS):
            assert path in ADAPTERS and path.parent.name == HOSTS[name]
            assert id(node) in late, f"{name} is imported before it is needed"
        assert not {each.split(".")[0] for each in names} & {"core", "backdoorbox"}  # read by what its objects have


@pytest.mark.parametrize("path", SOURCES, ids=ids(SOURCES))
def test_nobody_imports_the_command_line(path):
    if path.name != "__main__.py" and path.parent.name != "cli":
        assert not starts(imports(path), f"{PACKAGE}.cli", f"{PACKAGE}.__main__")


HEAVY = ("torch", "torchvision", "numpy", "pydantic", "sklearn", "diffusers", "matplotlib", "PIL", "safetensors")


@pytest.mark.parametrize(
    "code",
    [
        "import elixir_plugin, elixir_plugin.hookspecs, elixir_plugin.adapters",
        "import elixir_plugin.plugins; elixir_plugin.plugins.plugins().offers()",
        "import elixir_plugin.cli.app",
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

"""What is installed is what is in the repository, and what is imported is what is declared."""

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

import elixir_plugin

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"elixir_plugin": "elixir_plugin", "adapters": "elixir_plugin.adapters"}  # folder -> package
COMES_WITH = {"typing_extensions": "pydantic"}  # part of the interface of a declared dependency


@pytest.fixture(scope="module")
def setup():
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def lines(text):
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def distribution(requirement):
    name = re.match(r"[A-Za-z0-9._-]+", requirement).group()
    return re.sub(r"[-_.]+", "-", name).lower()


def sources():
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def test_every_folder_with_code_is_a_package():
    for path in sources():
        assert (path.parent / "__init__.py").is_file(), f"{path.parent.relative_to(ROOT)} has no __init__.py"


def test_adapters_have_their_name_inside_the_package(setup):
    places = dict(re.split(r"\s*=\s*", line) for line in lines(setup["options"]["package_dir"]))
    assert places == {package: folder for folder, package in FOLDERS.items()}


def test_every_dependency_is_named_once(setup):
    extras = setup["options.extras_require"].values()
    for block in (setup["options"]["install_requires"], *extras):
        names = [distribution(line) for line in lines(block)]
        assert len(names) == len(set(names))


def test_every_import_is_declared(setup):
    declared = {distribution(line) for line in lines(setup["options"]["install_requires"])}
    providers = packages_distributions()
    for path in sources():
        for name in imported_at_the_top(path) - set(sys.stdlib_module_names) - {"elixir_plugin"}:
            given = {distribution(each) for each in providers.get(name, [])} | {COMES_WITH.get(name)}
            assert given & declared, f"{path.relative_to(ROOT)} imports {name}, which setup.cfg does not declare"


def imported_at_the_top(path):
    """Return the top-level names that *path* cannot do without: imports outside functions, relative ones aside."""
    found = set()
    nodes = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            nodes += [each for each in ast.iter_child_nodes(node) if isinstance(each, ast.stmt | ast.ExceptHandler)]
    return found


def test_metadata_lives_in_one_file():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert "project" not in tomllib.load(file)  # it would silence install_requires


def test_version_and_licence_are_the_same_everywhere(setup):
    assert setup["metadata"]["version"] == "attr: elixir_plugin._version.__version__"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == elixir_plugin.__version__
    assert citation["license"] == setup["metadata"]["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changes or f"## [{elixir_plugin.__version__}]" in changes


def test_every_paper_is_cited():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    papers = {each["notes"].removeprefix("defense "): each for each in citation["references"]}
    assert set(papers) == {"dataelixir", "image_variations", "eclipse", "d3", "confusion_training"}
    for paper in papers.values():
        assert {"title", "authors", "year", "type"} <= set(paper)
        assert re.fullmatch(r"arXiv:\d{4}\.\d{5}", paper["identifiers"][0]["value"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build a wheel from a copy, so that the checkout stays clean; returns (copy, names in the wheel, entry points)."""
    pytest.importorskip("setuptools", minversion="70.1")
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", out, copy],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        (points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        return copy, set(archive.namelist()), archive.read(points).decode()


def test_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel):
    copy, names, _ = wheel
    expected = {
        "/".join([*package.split("."), *path.relative_to(copy / folder).parts])
        for folder, package in FOLDERS.items()
        for path in (copy / folder).rglob("*")
        if path.is_file()
    }
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert {"elixir_plugin/py.typed", "elixir_plugin/adapters/__init__.py"} <= names
    assert any(name.endswith("LICENSE") for name in names)


def test_wheel_announces_its_entry_points(wheel):
    parser = configparser.ConfigParser()
    parser.read_string(wheel[2])
    assert dict(parser["elixir_plugin"]) == {"builtin": "elixir_plugin.builtin", "adapters": "elixir_plugin.adapters"}
    assert dict(parser["console_scripts"]) == {"elixir-plugin": "elixir_plugin.cli:main"}

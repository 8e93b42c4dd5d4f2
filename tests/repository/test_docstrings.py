"""Public names explain themselves: a docstring with an example that runs (doctests run in CI on an installed copy)."""

from __future__ import annotations

import ast
import doctest
from pathlib import Path

import pytest

import elixir_plugin
from elixir_plugin import hookspecs

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (ROOT / "elixir_plugin", ROOT / "adapters")
WITHOUT_EXAMPLE = {
    "__version__": "a text",
    "hookimpl": "a marker made by pluggy; elixir_plugin.hookspecs shows how it is used",
}


@pytest.mark.parametrize("name", elixir_plugin.__all__)
def test_every_public_name_has_a_docstring_with_an_example(name: str) -> None:
    if name not in WITHOUT_EXAMPLE:
        text = getattr(elixir_plugin, name).__doc__ or ""
        assert len(text.split()) > 5 and ">>>" in text


def test_the_reasons_are_for_names_that_exist() -> None:
    assert set(WITHOUT_EXAMPLE) <= set(elixir_plugin.__all__)
    assert "hookimpl" in (ROOT / "elixir_plugin/hookspecs.py").read_text().split('"""')[1]


HOOKS = [name for name in vars(hookspecs) if name.startswith("elixir_")]


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_an_example_that_runs(name: str) -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(hookspecs, name), name, globs=vars(hookspecs).copy())
    assert any(f"def {name}(self" in each.source for each in example.examples)  # it implements this very hook
    said: list[str] = []
    assert doctest.DocTestRunner().run(example, out=said.append).failed == 0, "".join(said)


def undocumented(path: Path) -> list[str]:
    """Return the public functions and classes at the top of a module that have no docstring."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return [
        f"{path.relative_to(ROOT)}: {node.name}"
        for node in body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith(("_", "elixir_"))  # hooks are documented where they are specified
        and not ast.get_docstring(node)
    ]


def test_every_public_function_and_class_of_every_module_has_a_docstring() -> None:
    sources = [path for package in PACKAGES for path in package.rglob("*.py")]
    assert [each for path in sources for each in undocumented(path)] == []
    assert all(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for path in sources)


def test_doctests_run_in_ci() -> None:
    assert "--doctest-modules" in (ROOT / ".ci/run").read_text(encoding="utf-8")

"""``docs/settings.md`` is what the settings classes say, and they say something about every setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

from elixir_plugin.cli import reference
from elixir_plugin.cli.reference import rows_of
from elixir_plugin.cli.text import settings_lines
from elixir_plugin.core.settings import Settings
from elixir_plugin.plugins import plugins

FILE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


def classes() -> dict[str, type[Settings]]:
    found: dict[str, type[Settings]] = {}
    for title, _, model in reference._listed():
        found[title] = model
        reference._gather(model, found)
    return found


def test_it_is_current() -> None:
    assert FILE.read_text(encoding="utf-8") == reference.reference(), (
        "make it anew: elixir-plugin settings > docs/settings.md"
    )


def test_everything_built_in_is_in_it() -> None:
    text = FILE.read_text(encoding="utf-8")
    for kind in ("defense", "adapter", "poison"):
        for name, offer in plugins().offers()[kind].items():
            if offer.origin in reference.BUILT_IN:
                title = "Baseline" if offer.entry.baseline else kind.title()
                assert f"## {title} `{name}`" in text


@pytest.mark.parametrize(("name", "model"), classes().items(), ids=lambda each: each if isinstance(each, str) else "")
def test_every_setting_is_described(name: str, model: type[Settings]) -> None:
    assert [row[0] for row in rows_of(model) if not row[4]] == []


def test_every_link_leads_somewhere() -> None:
    import re

    text = FILE.read_text(encoding="utf-8")
    heads = {re.sub(r"[^a-z0-9_]", "", head.lower()) for head in re.findall(r"^#+ `(\w+)`$", text, flags=re.MULTILINE)}
    assert set(re.findall(r"\]\(#(\w+)\)", text)) <= heads


class Inner(Settings):
    """How it is done. More is not said."""

    depth: int = Field(2, ge=1, description="layers")


class Two(Inner):
    """Two of them."""

    width: int = Field(1, ge=1, description="channels")


class Outer(Settings):
    """An example.

    :param shape, edge: what it looks like; see
        :class:`~elixir_plugin.Case`.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {"deep": {"inner": {"depth": 9}}}
    share: float | None = Field(1 / 3, gt=0, le=1, description="a|b <i>")
    shape: tuple[str, ...] = ("a", "b")
    edge: str
    inner: Inner = Inner(depth=3)


def test_a_row_holds_type_default_range_and_description() -> None:
    assert list(rows_of(Outer)) == [
        ("share", "number or null", "0.333333", "> 0, ≤ 1", "a|b <i>"),
        ("shape", "list of text", '["a", "b"]', "", "what it looks like; see `Case`."),
        ("edge", "text", "", "", "what it looks like; see `Case`."),
        ("inner", "[Inner]", '{"depth": 3}', "", "How it is done."),
    ]


def test_no_description_breaks_the_table() -> None:
    section = reference._section("Outer", "Example.", Outer)
    assert "a\\|b &lt;i>" in section and "[Inner](#inner)" in section
    assert 'Preset `deep`: `{"inner": {"depth": 9}}`' in section


class Marked(Settings):
    """An example with settings for experts."""

    basic = ("share", "inner.depth")
    share: float = Field(0.5, ge=0, description="of all")
    eps: float = Field(1e-6, gt=0, description="added")
    inner: Two = Two()


def test_expert_settings_are_in_a_table_of_their_own() -> None:
    basic, expert = reference._section("Marked", "Example.", Marked).split("<details>")
    assert "| `share` |" in basic and "| `inner` |" in basic and "`eps`" not in basic
    assert expert.startswith("<summary>Expert settings: 1</summary>\n\n| setting |")
    assert "| `eps` |" in expert and "`share`" not in expert


def test_expert_settings_are_shown_on_demand() -> None:
    basic = ["settings:", "  share = 0.5  (number, ≥ 0)", "      of all", "  inner:", "      Two of them.",
             "    inner.depth = 2  (integer, ≥ 1)", "        layers"]  # fmt: skip
    assert list(settings_lines(Marked)) == [*basic, "  2 more settings for experts: --expert shows them"]
    assert list(settings_lines(Marked, expert=True)) == [
        *basic, "expert settings:", "  eps = 1e-06  (number, > 0)", "      added",
        "    inner.width = 1  (integer, ≥ 1)", "        channels",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["confusion_training", "d3", "dataelixir", "eclipse", "image_variations"])
def test_about_a_dozen_settings_of_a_defense_are_basic(name: str) -> None:
    settings = plugins().get("defense", name).Settings
    for path in settings.basic:
        model = settings
        for part in path.split("."):
            assert part in model.model_fields, path
            model = reference.nested_of(model, part)
    shown = [line for line in settings_lines(settings) if " = " in line and "  (" in line]
    assert 9 <= len(shown) <= 16

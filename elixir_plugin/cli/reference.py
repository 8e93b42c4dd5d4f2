"""The reference of all settings, as Markdown, made from the settings classes: ``elixir-plugin settings``.

Types and ranges come from the JSON schema of a class, descriptions from its fields, else from the ``:param`` lines of
its docstring. Expert settings have a table of their own, which is folded. Only what is built in is listed, so that the
result does not depend on the plugins installed.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from ..core.settings import Settings
from ..evaluation.retraining import Retraining
from ..io.files import to_json_types
from ..plugins import plugins
from ..runs.cards import ResultCard
from ..runs.compare.spec import CompareSpec
from ..runs.spec import RunSpec
from ..runs.spike import Spike

BUILT_IN = ("elixir_plugin:builtin", "elixir_plugin:adapters")
SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "multipleOf": "multiple of"}
SIZES = {"minLength": "length ≥", "minItems": "items ≥", "maxItems": "items ≤"}
HEAD = """# Settings

Made by `elixir-plugin settings` from the settings classes; do not edit. `elixir-plugin show NAME` prints the settings
of one name, with `--expert` all of them. A setting without a default must be given. Nested settings given in part keep
the rest of their values. Expert settings work like all others; few users change them.
"""
HEADER = ["| setting | type | default | range | what it is |", "| --- | --- | --- | --- | --- |"]
Model = type[Settings]


def reference() -> str:
    """Return the whole reference.

    >>> reference().splitlines()[0]
    '# Settings'
    """
    told: dict[str, Model] = {}
    parts = [HEAD]
    for title, summary, model in _listed():
        parts.append(_section(title, summary, model))
        _gather(model, told)
    parts.append("## Nested settings\n")
    parts += [
        _section(f"`{name}`", _sentence(inspect.getdoc(told[name]) or ""), told[name], 3) for name in sorted(told)
    ]
    return "\n".join(parts)


def rows_of(model: Model, chosen: Settings | None = None) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield ``(setting, type, default, range, description)`` of every field, as plain text.

    :param chosen: an instance of *model* whose values are the defaults in place of its own.

    >>> from elixir_plugin import Source
    >>> next(rows_of(Source))[:3]
    ('adapter', 'text', '')
    """
    schema = model.model_json_schema()
    said = _docstring_params(model)
    for name, field in model.model_fields.items():
        about = schema["properties"][field.alias or name]
        if chosen is not None:
            default = default_text(getattr(chosen, name))
        else:
            default = "" if field.is_required() else default_text(field.get_default(call_default_factory=True))
        text = _description(model, name) or said.get(name, "")
        if not text and (inner := next(_classes_in(field.annotation), None)) is not None:
            text = _sentence(inspect.getdoc(inner) or "")
        yield name, type_text(about, schema), default, range_text(about), text


def nested_of(model: Model, name: str) -> Model | None:
    """Return the settings class that the setting *name* holds, or None.

    >>> from elixir_plugin.runs.spec import RunSpec
    >>> nested_of(RunSpec, "source").__name__, nested_of(RunSpec, "seed")
    ('Source', None)
    """
    kind = model.model_fields[name].annotation
    return kind if isinstance(kind, type) and issubclass(kind, Settings) else None


def is_basic(names: Sequence[str] | None, name: str) -> bool:
    """Whether the setting *name*, or one nested in it, is among the basic *names*; see ``Settings.basic``.

    >>> is_basic(("fit.size", "mode"), "fit"), is_basic(("fit.size", "mode"), "level"), is_basic(None, "level")
    (True, False, True)
    """
    return names is None or any(each.partition(".")[0] == name for each in names)


def basic_inside(names: Sequence[str] | None, name: str, inner: Model) -> Sequence[str] | None:
    """Return which settings of *inner*, nested under *name*, are basic: what *names* says, else what the class says.

    >>> from elixir_plugin import Recipe
    >>> basic_inside(("recipe.epochs", "mode"), "recipe", Recipe)
    ['epochs']
    """
    return [each.removeprefix(f"{name}.") for each in names or () if each.startswith(f"{name}.")] or inner.basic


def default_text(value: Any) -> str:
    """Return a default as YAML would have it.

    >>> default_text(None), default_text(True), default_text((1, 2)), default_text("auto")
    ('null', 'true', '[1, 2]', 'auto')
    """
    if isinstance(value, Settings):
        usual = {key: to_json_types(field.default) for key, field in type(value).model_fields.items()}
        value = {key: each for key, each in value.dump().items() if each != usual[key] and not _same(each, usual[key])}
        if not value:
            return "its defaults"
    if isinstance(value, str):
        return value or '""'
    return json.dumps(_rounded(to_json_types(value)), ensure_ascii=False)


def type_text(about: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return the type that a piece of JSON schema describes, in words.

    >>> type_text({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}, {})
    'integer or null'
    """
    if "anyOf" in about:
        return " or ".join(dict.fromkeys(type_text(each, schema) for each in about["anyOf"]))
    if "$ref" in about:
        return f"[{about['$ref'].rpartition('/')[2]}]"
    if "enum" in about:
        return " or ".join(json.dumps(each) for each in about["enum"])
    if "const" in about:
        return json.dumps(about["const"])
    kind = about.get("type")
    if kind == "array":
        items: Mapping[str, Any] = about.get("items") or next(iter(about.get("prefixItems", [])), {})
        return f"list of {type_text(items, schema)}"
    if kind == "object":
        inner = about.get("additionalProperties")
        return f"mapping to {type_text(inner, schema)}" if isinstance(inner, dict) and inner else "mapping"
    return {"string": "text", "boolean": "true or false"}.get(kind or "", kind or "any")


def range_text(about: Mapping[str, Any]) -> str:
    """Return the range that a piece of JSON schema allows, also inside unions and lists.

    >>> range_text({"type": "array", "items": {"type": "number", "exclusiveMinimum": 0, "maximum": 1}})
    'each > 0, ≤ 1'
    """
    own = [f"{sign} {_short(about[key])}" for key, sign in {**SIGNS, **SIZES}.items() if key in about]
    own += [each for option in about.get("anyOf", []) if (each := range_text(option))]
    inner = range_text(about["items"]) if isinstance(about.get("items"), dict) else ""
    if not inner and isinstance(about.get("additionalProperties"), dict):
        inner = range_text(about["additionalProperties"])
    return ", ".join(dict.fromkeys([*own, *([f"each {inner}"] if inner else [])]))


def _listed() -> Iterator[tuple[str, str, Model]]:
    """Yield title, summary and settings class of everything a user sets."""
    yield "Run file", "The content of `elixir-plugin run FILE.yaml`.", RunSpec
    yield "`retrain`", "In run and compare files, and under `--retrain-set`.", Retraining
    yield "`spike`", "In run files, and under `--spike-set`.", Spike
    yield "Compare file", "The content of `elixir-plugin compare FILE.yaml`.", CompareSpec
    found, offers = plugins(), plugins().offers()
    for kind, title, named in (
        ("defense", "Defense", found.defenses()),
        ("defense", "Baseline", found.baselines()),
        ("adapter", "Adapter", offers["adapter"]),
        ("poison", "Poison", offers["poison"]),
    ):
        for name, offer in sorted(named.items()):
            if offer.origin in BUILT_IN:
                thing = found.get(kind, name)
                settings = thing.Options if kind == "adapter" else thing.Settings
                summary = offer.entry.summary
                yield f"{title} `{name}`", f"{summary[:1].upper()}{summary[1:]}.", settings
    yield "Result card", "A file of `elixir-plugin cards add`.", ResultCard


def _section(title: str, summary: str, model: Model, level: int = 2) -> str:
    lines = [f"{'#' * level} {title}", "", summary, ""]
    rows = {
        name: f"| `{name}` | {_linked(kind)} | {_code(default)} | {_cell(bounds)} | {_cell(said)} |"
        for name, kind, default, bounds, said in rows_of(model)
    }
    basic = [row for name, row in rows.items() if is_basic(model.basic, name)]
    expert = [row for name, row in rows.items() if not is_basic(model.basic, name)]
    lines += [*HEADER, *basic, ""] if rows else ["No settings.", ""]
    if expert:
        lines += [f"<details><summary>Expert settings: {len(expert)}</summary>", ""]
        lines += [*HEADER, *expert, "", "</details>", ""]
    for name, values in model.presets.items():
        chosen = json.dumps(_rounded(to_json_types(_dumped(values))), ensure_ascii=False)
        lines += [f"Preset `{name}`: {_code(chosen) if values else 'the defaults'}", ""]
    return "\n".join(lines)


def _gather(model: Model, told: dict[str, Model]) -> None:
    """Add the settings classes nested in *model*, and those nested in them, to *told*."""
    for field in model.model_fields.values():
        for inner in _classes_in(field.annotation):
            known = told.setdefault(inner.__name__, inner)
            assert known is inner, f"two settings classes are called {inner.__name__}"
            _gather(inner, told)


def _classes_in(annotation: Any) -> Iterator[Model]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for part in get_args(annotation):
        yield from _classes_in(part)


def _description(model: Model, name: str) -> str:
    """Return the description of a field, from the class that gave one last."""
    classes = [cls for cls in model.__mro__ if issubclass(cls, Settings) and name in cls.model_fields]
    fields = [cls.model_fields[name] for cls in classes]
    return next((field.description for field in fields if field.description), None) or ""


def _docstring_params(model: Model) -> dict[str, str]:
    """Return what the docstrings of *model* and its bases say after ``:param NAME:``."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        text = inspect.cleandoc(cls.__doc__ or "") if issubclass(cls, Settings) else ""
        for names, said in re.findall(r"^:param ([\w, ]+): (.*(?:\n[ \t]+.*)*)", text, flags=re.MULTILINE):
            found |= {name.strip(): re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", said) for name in names.split(",")}
    return {name: " ".join(said.replace("``", "`").split()) for name, said in found.items()}


def _dumped(value: Any) -> Any:
    """Turn settings inside a preset into plain values."""
    if isinstance(value, Settings):
        return value.dump()
    return {key: _dumped(each) for key, each in value.items()} if isinstance(value, Mapping) else value


def _same(first: Any, second: Any) -> bool:
    return bool(isinstance(second, Settings) and second.dump() == first)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _linked(kind: str) -> str:
    """Turn the name of a nested class into a link to its section."""
    return re.sub(r"\[(\w+)\]", lambda match: f"[{match[1]}](#{match[1].lower()})", _cell(kind))


def _sentence(text: str) -> str:
    first = re.split(r"(?<=[.:])\s|\n\n", " ".join(text.split("\n\n", maxsplit=1)[0].split()))[0].rstrip(":.")
    return f"{first[:1].upper()}{first[1:]}."


def _code(text: str) -> str:
    return _cell(f"`{text}`") if text else ""


def _cell(text: str) -> str:
    """Escape what a table or HTML would take for its own; inside backticks, ``<`` is only a character."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part.replace("<", "&lt;") if number % 2 == 0 else part for number, part in enumerate(parts))

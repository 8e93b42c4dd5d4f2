"""Settings: frozen, checked, refusing unknown keys; with presets, YAML, ``--set key=value`` and a stable hash."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator
from typing_extensions import Self

from ..errors import InputError, SettingsError, nearest, said, shown
from ..io.documents import LARGEST, SMALLEST
from ..io.opening import refuse_unusable
from ..io.yaml_text import parse_yaml, read_yaml

VALUE = 80  # characters of a refused value that a message shows
FAULTS = 3  # refused items of one list that a message names


class Settings(BaseModel):
    """Base of every settings class in the project, and of those of third parties.

    Instances are immutable and hashable by content. Unknown keys and values out of range are refused, all of them
    in one message. So are numbers that are not finite, unless a field allows them (``allow_inf_nan=True``). A subclass
    may offer :attr:`presets`: named sets of values that lie between the defaults and what the user gives. It may say
    which settings are :attr:`basic`, and rename settings (:attr:`former`).

    >>> from pydantic import Field
    >>> class Blur(Settings):
    ...     presets = {"strong": {"radius": 9}}
    ...     radius: int = Field(3, ge=1, le=31)
    >>> Blur.build({"radius": "5"}).radius, Blur.build(preset="strong").radius
    (5, 9)
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})
    for_a_look: ClassVar[tuple[str, ...]] = ()  # presets that show how it works in seconds, too short to find anything
    whole: ClassVar[bool] = False
    """Where these settings are nested in others: given in part, they stand for themselves and are not filled up."""
    basic: ClassVar[tuple[str, ...] | None] = None
    """Settings that users change; None: all. The others are for experts: they work alike, but main tables omit them.

    Of nested settings, ``"fit"`` stands for those that are basic in their class, ``"fit.length"`` for that one.
    """
    former: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Former name -> name of renamed settings, oldest first; former names are accepted wherever settings are read."""
    added: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Settings that came later -> the value, in JSON types, under which all is as it was before there was the setting.

    At this value they do not count for the identity of a run, so that runs made before are found again.
    """

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        named = {name.partition(".")[0] for name in cls.basic or ()} | set(cls.former.values()) | cls.added.keys()
        if unknown := named - cls.model_fields.keys():
            raise TypeError(f"{cls.__name__}: basic, former or added names no setting: {', '.join(sorted(unknown))}")
        if reused := cls.former.keys() & cls.model_fields.keys():
            raise TypeError(f"{cls.__name__}: former names are settings again: {', '.join(sorted(reused))}")

    @model_validator(mode="before")
    @classmethod
    def _under_current_names(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        renamed = cls.under_current_names(values)
        for new in (cls.former[key] for key in renamed if key in cls.former):
            names = " and ".join(f"`{key}`" for key in renamed if cls.former.get(key, key) == new)
            raise ValueError(f"{names} are names of one setting, `{new}` today: give it once")
        return renamed

    @field_validator("*")
    @classmethod
    def _can_be_kept(cls, value: Any) -> Any:
        """Refuse numbers that arrays cannot hold, and paths that the system does not take."""
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, int) and not SMALLEST <= each <= LARGEST:
                raise ValueError("whole numbers must fit into 64 bits")
            if isinstance(each, Path):
                usable_path(str(each))
        return value

    @classmethod
    def under_current_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return *values* with former names replaced, where a setting is not given twice."""
        given = Counter(cls.former.get(key, key) for key in values)
        return {(new if given[new := cls.former.get(key, key)] == 1 else key): each for key, each in values.items()}

    @classmethod
    def under_first_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return *values* under the name that each setting had first, in nested settings too; see also :attr:`added`.

        Hash these, and not :meth:`dump`, wherever settings identify a run folder or a cache: then what was made before
        a setting was renamed is found again. So is what was made before a setting was :attr:`added`: it is left out
        where it changes nothing.

        >>> class Blur(Settings):
        ...     former = {"size": "radius"}
        ...     added = {"edge": "black"}
        ...     radius: int = 3
        ...     edge: str = "black"
        >>> Blur.under_first_names(Blur(radius=5).dump()), Blur.under_first_names(Blur(edge="wrap").dump())
        ({'size': 5}, {'size': 3, 'edge': 'wrap'})
        """
        first: dict[str, str] = {}
        for old, new in cls.former.items():
            first.setdefault(new, old)
        values = cls.under_current_names(values)
        values = {key: each for key, each in values.items() if key not in cls.added or each != cls.added[key]}
        return {first.get(key, key): _under_first_names(_settings_in(cls, key), each) for key, each in values.items()}

    @classmethod
    def build(
        cls, values: Mapping[str, Any] | None = None, *, preset: str | None = None, where: str = "settings"
    ) -> Self:
        """Check *values* on top of *preset*, on top of the defaults, and return the settings.

        Nested settings given in part keep the rest of their values, unless their class is :attr:`whole`.

        :param where: how to call these settings in a message, e.g. ``"purify.yaml: settings"``.
        :raises SettingsError: naming every bad key, what was found and what is allowed.
        """
        base = cls._nested_defaults()
        if preset is not None:
            base = cls.overlaid(base, cls._preset(preset, where))
        base = cls.overlaid(base, values or {})
        try:
            return cls(**base)
        except ValidationError as error:
            raise _readable(error, cls, where) from None

    @classmethod
    def _preset(cls, name: str, where: str = "settings") -> Mapping[str, Any]:
        if name not in cls.presets:
            known = sorted(cls.presets)
            raise SettingsError(
                "unknown preset",
                where=where,
                found=name,
                allowed=", ".join(known) or "none: these settings have no presets",
                hint=nearest(name, known),
            )
        return cls.presets[name]

    @classmethod
    def _nested_defaults(cls) -> dict[str, Any]:
        defaults = {name: field.get_default(call_default_factory=True) for name, field in cls.model_fields.items()}
        return {name: value.dump() for name, value in defaults.items() if isinstance(value, Settings)}

    @classmethod
    def overlaid(cls, base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """Return *base* overlaid with *values*; mappings for nested settings are overlaid in turn.

        ``preset`` among the values, at any depth, stands for the values of that preset, under the others; so does its
        name in place of nested settings.

        >>> from elixir_plugin import Recipe
        >>> Recipe.overlaid({"epochs": 5, "augmentation": {"crop": 1, "flip": True}}, {"augmentation": {"crop": 2}})
        {'epochs': 5, 'augmentation': {'crop': 2, 'flip': True}}
        >>> Recipe.build({"preset": "fast", "epochs": 9}).schedule
        'triangle'
        """
        merged, values = cls.under_current_names(base), cls.under_current_names(values)
        if "preset" not in cls.model_fields and isinstance(name := values.get("preset"), str):
            merged = cls.overlaid(merged, cls._preset(name, "preset"))
            del values["preset"]
        for key, value in values.items():
            inner = _settings_in(cls, key)
            if inner is not None and inner.presets and isinstance(value, str):
                value = {"preset": value}  # noqa: PLW2901
            below = merged.get(key)
            if inner is None or inner.whole or not isinstance(value, Mapping) or not isinstance(below, Mapping):
                merged[key] = value
            else:
                merged[key] = inner.overlaid(below, value)
        return merged

    def __hash__(self) -> int:
        return hash(self.fingerprint())  # fields may hold lists and dicts

    @classmethod
    def coerce(
        cls,
        settings: Settings | Mapping[str, Any] | None,
        values: Mapping[str, Any],
        *,
        preset: str | None = None,
        where: str = "settings",
    ) -> Self:
        """Return settings from what a constructor was given: an object, a mapping or None, and single values."""
        if isinstance(settings, Settings):
            if not isinstance(settings, cls):
                raise SettingsError("settings of another class", where=where, found=type(settings).__qualname__)
            settings = settings.model_dump()
        given = cls.under_current_names(settings or {}) | cls.under_current_names(values)
        return cls.build(given, preset=preset, where=where)

    def dump(self) -> dict[str, Any]:
        """Return the values as JSON types; ``type(s).build(s.dump()) == s``."""
        return self.model_dump(mode="json")

    def look(self) -> str | None:
        """Return the preset of :attr:`for_a_look` that these settings hold every value of, or None.

        >>> class Blur(Settings):
        ...     presets, for_a_look = {"demo": {"rounds": 1}}, ("demo",)
        ...     rounds: int = 9
        ...     radius: int = 3
        >>> Blur(rounds=1, radius=5).look(), Blur().look()
        ('demo', None)
        """
        held = self.dump()
        for name in self.for_a_look:
            with suppress(SettingsError):  # values that do not go with those of the preset
                if self.build(self.overlaid(held, self.presets[name])) == self:
                    return name
        return None

    def fingerprint(self) -> str:
        """Return 12 hex digits that depend on the values alone, not on key order, process, machine or renaming."""
        return fingerprint(self.under_first_names(self.dump()))


def usable_path(text: str | None) -> str | None:
    """Return *text*, for validators of settings that name a file or folder; None, for none, stays None.

    :raises ValueError: when the system takes no such path, see :func:`~elixir_plugin.io.opening.refuse_unusable`.
    """
    if text is None:
        return None
    try:
        refuse_unusable(Path(text))
    except InputError as error:
        raise ValueError(f"{error.what}: {error.found}") from None
    return text


def fingerprint(value: Any) -> str:
    """Hash a JSON value to 12 hex digits, stable across processes and key order.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    :raises SettingsError: when the file is missing, refused by :func:`~elixir_plugin.io.yaml_text.parse_yaml`, or holds
        something else.
    """
    value = read_yaml(path)
    if not isinstance(value, dict):
        raise SettingsError(
            "the file must hold one mapping", where=path, found=type(value).__name__, allowed="key: value"
        )
    return value


def parse_assignments(items: Iterable[str], *, where: str = "--set") -> dict[str, Any]:
    """Read ``key=value`` items; values are YAML, dots nest.

    >>> parse_assignments(["epochs=20", "augmentation.flip=false"])
    {'epochs': 20, 'augmentation': {'flip': False}}
    """
    result: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise SettingsError("not an assignment", where=where, found=item, allowed="key=value")
        value = parse_yaml(text, where=f"{where} {key}", what="value is not YAML") if text else ""
        target = result
        for part in parts[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise SettingsError("key is given as a value and as a group", where=where, found=item)
        if isinstance(target.get(parts[-1]), dict):
            raise SettingsError("key is given as a value and as a group", where=where, found=item)
        target[parts[-1]] = value
    return result


def _settings_in(cls: type[Settings], key: str) -> type[Settings] | None:
    """Return the settings class of field *key*, also where it may be None instead."""
    field = cls.model_fields.get(key)
    types = () if field is None else (field.annotation, *get_args(field.annotation))
    return next((each for each in types if isinstance(each, type) and issubclass(each, Settings)), None)


def _under_first_names(cls: type[Settings] | None, value: Any) -> Any:
    """Return the *value* of a setting, in JSON types, with settings of class *cls* in it under their first names."""
    if cls is None:
        return value
    if isinstance(value, Mapping):
        return cls.under_first_names(value)
    return [_under_first_names(cls, each) for each in value] if isinstance(value, list | tuple) else value


def _readable(error: ValidationError, cls: type[Settings], where: str) -> SettingsError:
    """Turn pydantic's report into one message that names each key, the value found and what is allowed."""
    rows, allowed, hints = [], [], []
    faults = error.errors(include_url=False)
    in_list: Counter[str] = Counter()
    for fault in faults:
        if (items := _list_of(fault["loc"])) is not None:
            in_list[items] += 1
            if in_list[items] > FAULTS:
                continue
        if fault["type"] == "too_short" and any(
            each["loc"][:-1][: len(fault["loc"])] == fault["loc"] for each in faults
        ):
            continue  # its items were refused, and pydantic counts the others
        key = ".".join(str(part) for part in fault["loc"]) or "(all)"
        if fault["type"] == "extra_forbidden":
            known = _keys_beside(cls, fault["loc"])
            rows.append(f"{key}: unknown key")
            group = "".join(f" of {part}" for part in reversed(fault["loc"][:-1]) if isinstance(part, str))
            allowed.append(f"keys{group}: {', '.join(known)}")
            if (hint := nearest(str(fault["loc"][-1]), known)) is not None:
                hints.append(f"{key}: {hint}")
        elif fault["type"] == "missing":
            rows.append(f"{key}: missing")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            message = message[:1].lower() + message[1:]
            rows.append(f"{key} = {shown(_as_written(fault['input']), VALUE)}: {message}" if fault["loc"] else message)
    rows += [f"{key}: … {count - FAULTS:,} more" for key, count in in_list.items() if count > FAULTS]
    return SettingsError(
        "settings refused",
        where=where,
        found="; ".join(rows),
        allowed="; ".join(dict.fromkeys(allowed)) or None,
        hint="; ".join(hints) or None,
    )


def _list_of(loc: Sequence[int | str]) -> str | None:
    """Return the list that *loc* points into, or None when it points at no item of a list."""
    number = next((place for place, part in enumerate(loc) if isinstance(part, int)), None)
    return None if number is None else ".".join(str(part) for part in loc[:number])


def _as_written(value: Any) -> Any:
    """Return *value* for a message: containers as they are, because they are shortened by their items."""
    return value if isinstance(value, list | tuple | dict) else said(value, repr)


def _keys_beside(cls: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """Return the keys allowed where *loc* points to, also inside nested settings."""
    model = cls
    for part in loc[:-1]:
        if isinstance(part, int):  # an item of a list: its model is found with the list
            continue
        field = model.model_fields.get(str(part))
        types = () if field is None else (field.annotation, *get_args(field.annotation))
        inner = [each for each in types if isinstance(each, type) and issubclass(each, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)

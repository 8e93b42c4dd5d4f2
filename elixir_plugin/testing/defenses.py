"""The conformance suite: what every defense and every adapter must hold, built-in or from third parties.

.. code-block:: python

    from elixir_plugin.testing import check_defense
    def test_my_defense_conforms():
        check_defense(MyDefense, epochs=2)

    from elixir_plugin.testing import check_adapter
    def test_my_adapter_conforms():
        check_adapter(MyAdapter)
"""

from __future__ import annotations

import dataclasses
import random
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..adapter import Adapter, Source
from ..core.case import Case, Origin, TriggeredSet, Truth
from ..core.classifier.classifier import Classifier, to_batch
from ..core.context import Context
from ..core.images import ImageSet
from ..core.outcome import Outcome, same_outcome
from ..core.panels import dump_panels, load_panels
from ..core.settings import Settings
from ..defense import Card, Defense
from ..errors import MissingNeedError, SettingsError
from .adapters import adapter_faults
from .adapters import collecting as _collecting
from .adapters import expect as _expect

KINDS = ("detect", "purify", "train", "repair")
LACKING = {  # need -> parts of a case without which it is not met
    "train": ("train", "truth"),
    "clean": ("clean",),
    "model": ("model",),
    "denoiser": ("clean",),
    "generator": ("clean",),
}
MADE = ("denoiser", "generator")  # from the reserved clean set, where no setting names one
NAMING = ("denoiser", "generator", "weights")  # the settings that may
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class ConformanceError(AssertionError):
    """A class breaks the rules; the message lists every rule it breaks."""


def check_defense(cls: type[Defense], *, case: Case | None = None, **values: Any) -> None:
    """Hold a defense class against the rules, on a tiny case; takes two to four short runs of it.

    :param case: a case to run on, with every part the defense needs; default :func:`tiny_case`.
    :param values: settings that make a run short, e.g. ``epochs=2``. A denoiser or generator that the defense needs is
        named here as ``denoiser``, ``generator`` or ``weights``, or comes from the reserved clean set.
    :raises ConformanceError: naming every broken rule: the class attributes; settings that accept unknown keys, take
        numbers without a range, or can be changed; input that is modified; outcomes that differ under one seed,
        depend on the sealed truth, break the shape or index rules, or do not survive being saved; panels that
        cannot be made, or not again from a saved outcome; the host's
        random state being touched; missing needs not refused before work starts.
    """
    case = case or tiny_case()
    faults: list[str] = []
    with _collecting(faults, "class attributes"):
        _check_attributes(cls)
    with _collecting(faults, "settings"):
        check_settings(cls.Settings)
    with _collecting(faults, "missing needs"):
        _check_missing_needs(cls, case, values)
    outcome: Outcome | None = None
    with _collecting(faults, "run"):
        outcome = _check_run(cls, case, values)
    if outcome is not None:
        with _collecting(faults, "same seed, same outcome"):
            _expect_same(outcome, _run(cls, case, values))
        with _collecting(faults, "sealed truth"):
            _expect_same(outcome, _run(cls, _with_other_truth(case), values))
        loaded = outcome  # where it cannot be read back, that is the one fault
        with _collecting(faults, "round trip"), tempfile.TemporaryDirectory() as folder:
            outcome.save(Path(folder) / "outcome")
            loaded = Outcome.load(Path(folder) / "outcome")
            _expect_same(outcome, loaded)
        with _collecting(faults, "panels"):
            made = dump_panels(cls(**values).panels(outcome))
            _expect(load_panels(made) == load_panels(dump_panels(cls(**values).panels(loaded))),
                    "differ for an outcome that was read back from disk")  # fmt: skip
    if faults:
        raise ConformanceError(f"{cls.__name__} does not conform:\n- " + "\n- ".join(faults))


def check_adapter(
    cls: type[Adapter],
    *,
    source: Path | None = None,
    options: Mapping[str, Any] | None = None,
    case: Case | None = None,
    place: str = "case",
) -> None:
    """Hold an adapter class against the rules.

    :param source: a valid case in the adapter's format; default: *case* is written by the adapter itself.
    :param options: adapter options that *source* is read with.
    :param case: a case that the format can hold; default :func:`tiny_case`.
    :param place: folder below a temporary one that cases are written to, for formats in which folder names count.
    :raises ConformanceError: naming every broken rule: the class attributes; options that accept unknown keys or can
        be changed; missing or foreign input not refused with an ElixirError; reading that changes files or differs
        under one seed; a truth that shows in what a defense sees, or can be reached from there; a case that is another
        one after it was written and read; results that are not named, not complete, or outside their folder.
    """
    given = None if source is None else Source(adapter=cls.name, path=str(source), options=dict(options or {}))
    faults: list[str] = []
    with _collecting(faults, "options"):
        check_settings(cls.Options)
    faults += adapter_faults(cls, given, case or tiny_case(), place)
    if faults:
        raise ConformanceError(f"{cls.__name__} does not conform:\n- " + "\n- ".join(faults))


def check_settings(settings: type[Settings], default: Settings | None = None) -> None:
    """Hold a settings class, and those nested in it, against the rules.

    The rules: unknown keys refused, numbers with a range, no change after construction, valid presets, a lossless
    JSON round trip.

    :param default: valid settings to start from; needed when a field has no default.
    """
    _expect(issubclass(settings, Settings), "Settings must derive from elixir_plugin.Settings")
    default = settings.build() if default is None else default
    base = default.dump()
    _expect_refused(lambda: settings.build({**base, "no_such_key": 1}), "an unknown key is accepted")
    _expect(settings.build(default.dump()) == default, "settings do not survive dump and build")
    for name in settings.presets:
        settings.build({key: base[key] for key in _required(settings)}, preset=name)
    field = next(iter(settings.model_fields), None)
    if field is not None:
        try:
            setattr(default, field, getattr(default, field))
        except ValueError:
            pass
        else:
            raise AssertionError(f"setting {field!r} can be changed after construction")
    for name, each in settings.model_fields.items():
        if isinstance(each.annotation, type) and issubclass(each.annotation, Settings):
            try:
                check_settings(each.annotation, getattr(default, name))
            except AssertionError as fault:
                raise AssertionError(f"{name}: {fault}") from None
    schema = settings.model_json_schema()
    for name, spec in schema.get("properties", {}).items():
        options = spec.get("anyOf", [spec])
        for option in options:
            _check_range(settings, base, name, option)
        if all("enum" in option or "const" in option or option.get("type") == "null" for option in options):
            nonsense = {**base, name: "no such choice"}
            _expect_refused(lambda values=nonsense: settings.build(values), f"{name} accepts any text")  # type: ignore[misc]


def tiny_case(seed: int = 0, size: int = 8, num_classes: int = 4, **options: Any) -> Case:
    """Return a case with every part, small enough for a run in a second: striped images, a corner patch as trigger.

    :param options: of the :class:`Classifier` that is fitted to the suspect set, e.g. ``mean`` and ``std``.
    """
    rng = np.random.default_rng(seed)

    def images(count: int) -> ImageSet:
        labels = np.arange(count) % num_classes
        stripes = 128 + 90 * np.sin(np.arange(size)[None, :] * (labels[:, None] + 1) * np.pi / size)
        pixels = stripes[:, :, None, None] + rng.normal(0, 20, (count, size, size, 3))
        return ImageSet(np.clip(np.rint(pixels), 0, 255).astype(np.uint8), labels, num_classes)

    def patched(samples: ImageSet, rows: np.ndarray[Any, Any]) -> ImageSet:
        pixels, labels = samples.read(slice(None)), samples.labels.copy()
        pixels[rows, -2:, -2:] = 255
        labels[rows] = 0
        return samples.replace(images=pixels, labels=labels)

    train, clean, test = images(96), images(48), images(48)
    poison = np.flatnonzero(train.labels == 1)[:8]
    others = np.flatnonzero(test.labels != 0)
    triggered = patched(test.subset(others), np.arange(len(others)))
    suspects = patched(train, poison)
    return Case(
        train=suspects,
        clean=clean,
        model=_fitted(Classifier.build("small_resnet", num_classes, seed=seed, **options), suspects),
        test=test,
        test_poisoned=TriggeredSet(triggered, test.labels[others]),
        truth=Truth(np.isin(np.arange(96), poison), original_labels=train.labels),
        origin=Origin("testing", facts={"target": 0}),
    )


@torch.no_grad()
def _fitted(model: Classifier, samples: ImageSet) -> Classifier:
    """Fit the last layer of *model* to *samples* by ridge regression, in one step."""
    model.eval()
    images = to_batch(samples.read(slice(None)), model.device)
    features = model.features(images)[1].double()
    ones = torch.ones(len(features), 1, dtype=torch.float64)
    inputs, wanted = torch.cat([features, ones], 1), torch.eye(model.num_classes, dtype=torch.float64)
    gram = inputs.T @ inputs
    solved = torch.linalg.solve(
        gram + 1e-3 * gram.trace() / len(gram) * torch.eye(len(gram)), inputs.T @ wanted[samples.labels.tolist()]
    )
    state = {"weight": solved[:-1].T, "bias": solved[-1]}
    model.module.get_submodule(model.head(images)).load_state_dict(state)
    return model


def _check_attributes(cls: type[Defense]) -> None:
    _expect(issubclass(cls, Defense), "must derive from elixir_plugin.Defense")
    _expect(bool(re.fullmatch(r"[a-z][a-z0-9_]*", getattr(cls, "name", ""))), "name must be lower case")
    _expect(getattr(cls, "kind", None) in KINDS, f"kind must be one of {', '.join(KINDS)}")
    _expect(set(getattr(cls, "needs", {"?"})) <= LACKING.keys(), f"needs must be among {', '.join(LACKING)}")
    card = getattr(cls, "card", None)
    _expect(isinstance(card, Card) and all(vars(card).values()), "card must be complete")


def _required(settings: type[Settings]) -> list[str]:
    return [name for name, field in settings.model_fields.items() if field.is_required()]


def _check_range(settings: type[Settings], base: Mapping[str, Any], name: str, option: Mapping[str, Any]) -> None:
    if option.get("type") not in ("integer", "number") or "enum" in option or "const" in option:
        return
    bounds = [
        (key, option[key])
        for key in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
        if isinstance(option.get(key), int | float)
    ]
    _expect(bool(bounds), f"number {name!r} has no range")
    for key, bound in bounds:
        beyond = bound - 1 if "inimum" in key else bound + 1
        _expect_refused(lambda value=beyond: settings.build({**base, name: value}), f"{name} accepts {beyond}")  # type: ignore[misc]


def _check_missing_needs(cls: type[Defense], case: Case, values: Mapping[str, Any]) -> None:
    def started(self: Defense, case: Case, context: Context) -> Outcome:
        raise AssertionError("work starts before missing needs are refused")

    idle = type(cls.__name__, (cls,), {"defend": started})(**values)
    named = any(getattr(idle.settings, name, None) for name in NAMING)
    for need in sorted(set(cls.needs) & LACKING.keys()):
        if need in MADE and named:
            continue
        absent: dict[str, Any] = dict.fromkeys(LACKING[need])
        # of what is made, the setting that names one may as well be missing
        refusals = (MissingNeedError, SettingsError) if need in MADE else (MissingNeedError,)
        try:
            idle.run(dataclasses.replace(case, **absent))
        except refusals:
            continue
        raise AssertionError(f"a case without {need!r} is not refused")


def _check_run(cls: type[Defense], case: Case, values: Mapping[str, Any]) -> Outcome:
    before, host = _state_of(case), _host_random_state()
    outcome = _run(cls, case, values)
    changed = [name for name, value in _state_of(case).items() if value != before[name]]
    _expect(not changed, f"input is modified: {', '.join(changed)}")
    _expect(_host_random_state() == host, "the host's random state is touched: use context.generator()")
    return outcome


def _run(cls: type[Defense], case: Case, values: Mapping[str, Any]) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        return cls(**values).run(case, Context(seed=7, work_dir=Path(folder)))


def _with_other_truth(case: Case) -> Case:
    """Return *case* with truth and test data that say something else."""
    assert case.truth is not None and case.test is not None
    poison = np.roll(~case.truth.poison, 1)
    test = case.test.replace(labels=(case.test.labels + 1) % case.num_classes)
    return dataclasses.replace(
        case, truth=Truth(poison, kind="clean-label"), test=test, test_poisoned=None, origin=Origin("elsewhere")
    )


def _state_of(case: Case) -> dict[str, Any]:
    sets = {"train": case.train, "clean": case.clean, "test": case.test}
    state: dict[str, Any] = {name: each.fingerprint() for name, each in sets.items() if each is not None}
    if case.model is not None:
        tensors = case.model.module.state_dict()
        state["model weights"] = {name: value.cpu().numpy().tobytes() for name, value in tensors.items()}
        state["model mode"] = [module.training for module in case.model.modules()]
        state["model gradients"] = [(p.requires_grad, p.grad is None) for p in case.model.parameters()]
        state["model hooks"] = [[len(getattr(module, hooks)) for hooks in HOOKS] for module in case.model.modules()]
    return state


def _host_random_state() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  (the legacy stream is what a host may rely on)
    return torch.get_rng_state().numpy().tobytes(), kind, np.asarray(keys).tobytes(), *rest, random.getstate()


def _expect_refused(action: Callable[[], Any], fault: str) -> None:
    try:
        action()
    except SettingsError:
        return
    raise AssertionError(fault)


def _expect_same(first: Outcome, second: Outcome) -> None:
    different = same_outcome(first, second)
    _expect(not different, f"differs in {', '.join(different)}")

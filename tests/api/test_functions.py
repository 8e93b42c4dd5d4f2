"""Three verbs, on data and models as a host has them."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import elixir_plugin
from elixir_plugin import Case, Context, Defense, Outcome
from elixir_plugin.api import functions
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.defense import Card
from elixir_plugin.errors import InputError, MissingNeedError, SettingsError
from elixir_plugin.testing.defenses import tiny_case

CASE = tiny_case()


def tensors(part: Any) -> TensorDataset:
    pixels = torch.from_numpy(part.read(slice(None))).permute(0, 3, 1, 2).float() / 255
    return TensorDataset(pixels, torch.from_numpy(part.labels.copy()))


def module() -> nn.Module:
    return Classifier.build("small_resnet", 4, seed=1).module.eval()


class Curious(Defense):
    """Keeps what it was given."""

    name = "curious"
    kind = "detect"
    needs = frozenset({"train"})
    card = Card("Curious", "none", 2026, "keeps what it sees", "nothing", "for tests")
    seen: ClassVar[list[tuple[Case, Context]]] = []

    def defend(self, case: Case, context: Context) -> Outcome:
        assert case.train is not None
        self.seen.append((case, context))
        return Outcome(
            flagged=np.zeros(len(case.train), bool), model=None if case.model is None else case.model.clone()
        )


def test_repair_gives_back_a_module_of_the_same_kind_and_leaves_the_given_one_alone() -> None:
    suspect, clean = module(), tensors(CASE.clean)
    before = {name: value.clone() for name, value in suspect.state_dict().items()}
    outcomes = [
        elixir_plugin.repair(suspect, each, mean=(0.5,) * 3, std=(0.25,) * 3, epochs=1)
        for each in (clean, DataLoader(clean, 7, shuffle=True), CASE.clean)
    ]
    for name, value in suspect.state_dict().items():
        assert torch.equal(value, before[name])
    repaired = [outcome.model.module for outcome in outcomes if outcome.model is not None]
    assert all(type(each) is type(suspect) and each is not suspect for each in repaired)
    moved = repaired[0].state_dict()["linear.weight"]
    assert not torch.equal(moved, before["linear.weight"])
    assert torch.equal(moved, repaired[1].state_dict()["linear.weight"])  # order does not matter, positions do


def test_repair_matches_the_same_run_on_a_case() -> None:
    model = Classifier(module(), 4, mean=(0.5,) * 3, std=(0.25,) * 3)
    expected = elixir_plugin.get_defense("d3")(epochs=1).run(Case(clean=CASE.clean, model=model), Context(seed=3))
    found = elixir_plugin.repair(
        module(), CASE.clean, mean=(0.5,) * 3, std=(0.25,) * 3, seed=3, device="cpu", settings={"epochs": 1}
    )
    assert expected.model is not None and found.model is not None
    for name, value in expected.model.module.state_dict().items():
        assert torch.equal(value, found.model.module.state_dict()[name])


def test_what_a_defense_gets() -> None:
    suspects, clean = tensors(CASE.train), (CASE.clean.read(slice(None)), CASE.clean.labels)  # type: ignore[union-attr]
    Curious.seen.clear()
    outcome = functions.defend(Curious, train=suspects, clean=clean, model=module(), seed=9)
    case, context = Curious.seen[0]
    assert context.seed == 9 and context.work_dir is None
    assert case.train is not None and len(case.train) == 96 and case.num_classes == 4
    assert case.clean is not None and case.clean.fingerprint() == CASE.clean.fingerprint()  # type: ignore[union-attr]
    assert outcome.model is not None and outcome.flagged is not None


def test_the_sets_share_one_number_of_classes() -> None:
    functions.defend(
        Curious, train=(np.zeros((3, 4, 4, 3), np.uint8), [0, 0, 1]), clean=(np.zeros((2, 4, 4, 3)), [2, 0])
    )
    case, _ = Curious.seen[-1]
    assert case.num_classes == 3 and case.clean is not None and case.clean.num_classes == 3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: elixir_plugin.detect(CASE.train, defense="d3"), SettingsError, "does not detect"),
        (lambda: elixir_plugin.purify(CASE.train, defense="confusion_training"), SettingsError, "does not purify"),
        (lambda: elixir_plugin.repair(module(), CASE.clean, defense="eclipse"), SettingsError, "does not repair"),
        (lambda: elixir_plugin.repair(module(), CASE.clean, epoch=1), SettingsError, "settings refused"),
        (lambda: elixir_plugin.repair(module(), CASE.clean, mean=(0.5,)), InputError, "belong together"),
        (lambda: elixir_plugin.detect(CASE.train, normalised=True), InputError, "belong together"),
        (lambda: elixir_plugin.detect(CASE.train), MissingNeedError, "needs 'clean'"),
        (lambda: elixir_plugin.repair(module(), CASE.clean, device="abacus"), SettingsError, "device not available"),
        (lambda: elixir_plugin.repair(module(), CASE.clean, num_classes=7), InputError, "logit per class"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_detect_finds_positions_of_the_given_set() -> None:
    short = {
        "architecture": "small_resnet", "reference": "labels", "ratios": (0.5,), "suspect_size": None,
        "reserved_size": None, "pretrain_epochs": (1,), "confusion_steps": (2,), "confusion_batch": 16,
        "confusion_lr": (0.01,), "lam": (10,), "shifted_from": 2,
    }  # fmt: skip
    found = elixir_plugin.detect(tensors(CASE.train), clean=tensors(CASE.clean), settings=short, device="cpu")
    assert found.flagged is not None and found.flagged.shape == (96,) and found.scores is not None

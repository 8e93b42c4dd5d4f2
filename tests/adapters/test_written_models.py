"""A model that is written for a toolkit is worth there what the report says, or the report says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from elixir_plugin.adapters.backdoor_toolbox import BackdoorToolbox
from elixir_plugin.adapters.backdoorbench.results import cannot_build
from elixir_plugin.adapters.backdoorbench.script import _foreign_network
from elixir_plugin.adapters.common.models import assumed_normalisation, unlike_host
from fake_records import Workspace
from test_backdoor_toolbox import make_set

from elixir_plugin import Case, Classifier, Context, Outcome, get_adapter, get_defense
from elixir_plugin.core.metrics import Evaluation
from elixir_plugin.evaluation.metrics import model_metrics
from elixir_plugin.evaluation.retraining import Retraining, retrain
from elixir_plugin.runs.spec import RunSpec
from elixir_plugin.testing.defenses import tiny_case

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)


def suspect(case: Case, **options: Any) -> Case:
    import dataclasses

    model = Classifier.build("small_resnet", case.num_classes, **options)
    return dataclasses.replace(case, model=model.eval())


def trained_by(defense: str, case: Case) -> Classifier:
    """Return the model that ends up in the toolkit's folder, however it comes about."""
    if defense == "retrain":
        return retrain(case, Outcome(flagged=np.zeros(len(case.train or ()), bool)), Retraining(epochs=1), Context())
    if defense == "retrain fast_resnet":
        plan = Retraining(epochs=1, architecture="fast_resnet")
        return retrain(case, Outcome(flagged=np.zeros(len(case.train or ()), bool)), plan, Context())
    if defense == "dataelixir":
        from elixir_plugin.defenses.dataelixir.models import Trainer as Elixir

        settings: Any = get_defense("dataelixir")(architecture="fast_resnet").settings
        return Elixir(settings, Context(), None).start_of_probe(case)
    from elixir_plugin.defenses.image_variations.models import Trainer as Variations

    settings = get_defense("image_variations")(preset="cpu").settings
    return Variations(settings, Context(), None)._fresh(case, "student")


HOSTS = [{"mean": MEAN, "std": STD}, {}, {"mean": (0.5,), "std": (0.25,)}]


@pytest.mark.parametrize("defense", ["retrain", "retrain fast_resnet", "dataelixir", "image_variations"])
@pytest.mark.parametrize("host", HOSTS, ids=["per channel", "none", "one for all"])
def test_a_model_trained_here_is_normalised_as_the_suspect_model(defense: str, host: dict[str, Any]) -> None:
    case = suspect(tiny_case(), **host)
    model = trained_by(defense, case)
    assert case.model is not None
    if not host and not defense.startswith("retrain"):  # a named network, which may learn nothing from plain pixels
        assert not model.mean.eq(0).all() and unlike_host(model, "the host", (0.0,), (1.0,))
        return
    assert torch.equal(model.mean, case.model.mean) and torch.equal(model.std, case.model.std)


def test_without_a_suspect_model_the_images_decide() -> None:
    import dataclasses

    case = dataclasses.replace(tiny_case(), model=None)
    assert case.train is not None
    wanted = torch.tensor(case.train.read(slice(None)) / 255).mean((0, 1, 2)).float()
    assert torch.allclose(trained_by("retrain", case).mean.flatten(), wanted, atol=1e-6)


def test_backdoorbench_measures_the_numbers_of_the_report(workspace: Workspace) -> None:
    """The toolkit normalises with its own constants, whatever the model was trained with."""
    case = get_adapter("backdoorbench")({"architecture": "small_resnet"}).read(workspace.record)
    model = trained_by("retrain", case)
    written = workspace.root / "out"
    get_adapter("backdoorbench")().write(case, outcome := Outcome(model=model), Evaluation(), written, "ct")
    theirs = Classifier.build("small_resnet", 10, mean=MEAN, std=STD)
    theirs.module.load_state_dict(torch.load(written / "defense_result.pt")["model"])
    ours = model_metrics(model, case.test, case.test_poisoned)
    assert model_metrics(theirs.eval(), case.test, case.test_poisoned) == ours and outcome.notes == []


def noted(workspace: Workspace, model: Classifier) -> list[str]:
    case = get_adapter("backdoorbench")({"architecture": "small_resnet"}).read(workspace.record)
    outcome = Outcome(model=model)
    for _ in range(2):  # written again: nothing is said twice
        get_adapter("backdoorbench")().write(case, outcome, Evaluation(), workspace.root / "out", "iv")
    return outcome.notes


class TestNotes:
    def test_a_network_that_backdoorbench_lacks(self, workspace: Workspace) -> None:
        (note,) = noted(workspace, Classifier.build("fast_resnet", 10, mean=MEAN, std=STD))
        assert "cannot build a network called fast_resnet" in note and "preactresnet18" in note

    def test_one_that_it_has(self, workspace: Workspace) -> None:
        assert noted(workspace, Classifier.build("resnet18", 10, mean=MEAN, std=STD)) == []

    def test_another_normalisation(self, workspace: Workspace) -> None:
        (note,) = noted(workspace, Classifier.build("resnet18", 10, mean=(0.5,), std=STD))
        assert "mean (0.5) instead of (0.4914, 0.4822, 0.4465)" in note and "std" not in note

    @pytest.mark.e2e
    def test_another_size(self, workspace: Workspace) -> None:
        (note,) = noted(workspace, Classifier.build("resnet18", 10, mean=MEAN, std=STD, input_size=64))
        assert "resized to 64" in note
        assert noted(workspace, Classifier.build("vit_b_32", 10, mean=MEAN, std=STD, input_size=224)) == []

    def test_backdoor_toolbox(self, tmp_path: Path) -> None:
        folder = make_set(tmp_path)
        module = Classifier.build("cifar_resnet18", 10).module
        torch.save(module.state_dict(), folder / "full_base_aug_seed=2333.pt")
        adapter = BackdoorToolbox()
        case = adapter.read(folder)
        assert case.model is not None
        for model, said in (
            (case.model, []),
            (Classifier(module, 10, mean=MEAN, std=(1.0,), architecture="cifar_resnet18"), ["std (1) instead of"]),
            (Classifier.build("fast_resnet", 10, mean=MEAN, std=STD), ["is a fast_resnet"]),
        ):
            outcome = Outcome(model=model)
            adapter.write(case, outcome, Evaluation(), tmp_path / "out", "iv")
            assert len(outcome.notes) == len(said)
            assert all(text in note for text, note in zip(said, outcome.notes, strict=True))

    @pytest.mark.parametrize("options", [{}, {"mean": (0.0,), "std": (1.0,)}])
    def test_no_normalise_of_backdoor_toolbox(self, tmp_path: Path, options: dict[str, Any]) -> None:
        model = Classifier.build("cifar_resnet18", 10)
        notes = unlike_host(model, "backdoor-toolbox", *BackdoorToolbox(options)._normalisation("cifar10"))
        assert bool(notes) == (not options)


@pytest.mark.parametrize(
    ("defense", "values", "preset", "network"),
    [
        ("image_variations", {"architecture": "fast_resnet"}, None, "fast_resnet"),
        ("image_variations", {}, "cpu", "fast_resnet"),
        ("image_variations", {}, "paper", "resnet101"),
        ("dataelixir", {}, "small", "fast_resnet"),
        ("dataelixir", {"architecture": "vgg19_bn"}, "small", None),
        ("image_variations", {}, "demo", None),
        ("confusion_training", {}, "small", None),  # its networks find poison, and are not written
        ("d3", {}, None, None),
    ],
)
def test_the_script_says_before_the_work_what_the_toolkit_cannot_load(
    defense: str, values: dict[str, Any], preset: str | None, network: str | None
) -> None:
    source = {"adapter": "backdoorbench", "path": "record"}
    spec = RunSpec.build({"defense": defense, "source": source, "settings": values, "preset": preset}, where="test")
    assert _foreign_network(get_defense(defense), spec) == ([] if network is None else cannot_build(network))


def test_half_a_normalisation_is_noted_too() -> None:
    assert assumed_normalisation("own", (0.5,), (0.5,)) == []
    assert "mean 0 and std 1 are assumed" in assumed_normalisation("own", None, None)[0]
    assert "mean 0 is assumed" in assumed_normalisation("own", None, (0.5,))[0]

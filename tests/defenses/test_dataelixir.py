"""DataElixir as a whole, on denoisers that are formulas."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from elixir_plugin.adapters.arrays import Arrays
from elixir_plugin.adapters.image_folder import ImageFolder
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from elixir_plugin.api.convert import as_image_set
from elixir_plugin.cli.app import program
from elixir_plugin.core.case import Case, Origin, Truth
from elixir_plugin.core.classifier.classifier import Classifier, to_batch
from elixir_plugin.core.context import Context, derive_seed
from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.metrics import Evaluation
from elixir_plugin.core.outcome import Outcome, same_outcome
from elixir_plugin.core.pixels import as_float
from elixir_plugin.defenses.dataelixir import defense as dataelixir
from elixir_plugin.defenses.dataelixir import denoiser as dataelixir_denoiser
from elixir_plugin.defenses.dataelixir import models, purify
from elixir_plugin.defenses.dataelixir import repair as dataelixir_repair
from elixir_plugin.defenses.dataelixir.defense import DataElixir, some_per_class
from elixir_plugin.defenses.dataelixir.denoiser import plan_round
from elixir_plugin.defenses.dataelixir.models import Trainer
from elixir_plugin.defenses.dataelixir.purify import Candidates, Purifier, make_copies, truncated
from elixir_plugin.defenses.dataelixir.repair import Repairer
from elixir_plugin.defenses.dataelixir.settings import LEVEL, DataElixirSettings
from elixir_plugin.defenses.dataelixir.target import ClassFinding, find_targets
from elixir_plugin.defenses.dataelixir.votes import count_votes
from elixir_plugin.diffusion.denoisers.base import Denoiser, Prediction, Variance
from elixir_plugin.diffusion.denoisers.denoiser import UNetDenoiser, hexadecimal
from elixir_plugin.diffusion.denoisers.gaussian import GaussianDenoiser, OracleDenoiser
from elixir_plugin.diffusion.denoisers.unet import Architecture, build_unet
from elixir_plugin.diffusion.fit import choose, timing
from elixir_plugin.diffusion.fit.choose import provenance, refuse_seen
from elixir_plugin.diffusion.noise import normal_noise
from elixir_plugin.diffusion.sampler import jump, predicted_image, reverse
from elixir_plugin.diffusion.schedule import Schedule
from elixir_plugin.errors import InputError, MissingNeedError, SettingsError
from elixir_plugin.evaluation.metrics import detection_metrics
from elixir_plugin.testing import defenses as testing
from elixir_plugin.training import checkpoint
from elixir_plugin.training.batches import Batch, Samples, ShuffledBatches
from elixir_plugin.training.loop import Recipe, train

CHAIN = Schedule("linear", 1000)
FIT = {"size": "tiny", "schedule": "linear", "length": 1000, "learn_sigma": False, "iterations": 2, "batch_size": 4}
ROUNDS = {"rounds": 2, "steps": 2, "dense_below": 2}  # 3 evaluations per round
SHORT: dict[str, Any] = {
    "architecture": "fast_resnet",
    "fit": FIT,
    "purification": ROUNDS,
    "states": 2,
    "threshold": 2,
    "recipe": {"epochs": 1, "batch_size": 32, "augmentation": {"crop": 0, "flip": False}},
}
TARGET = {"mode": "given", "targets": [0]}


def tiny_case(**options: Any) -> Case:
    """Return the tiny case under a normalisation with which one epoch of training teaches the probe something."""
    return testing.tiny_case(mean=(0.5,), std=(0.25,), **options)


class Interrupted(Exception):
    """Stands for a kill."""


class Counting(GaussianDenoiser):
    """A formula that counts its calls, and takes images for noise around grey: copies differ from originals."""

    def __init__(self, last_call: int | None = None) -> None:
        super().__init__(CHAIN, mean=0.0, std=0.6)
        self.calls: list[tuple[int, int]] = []
        self.last_call = last_call

    def predict(self, states: Tensor, indices: Tensor) -> Prediction:
        if len(self.calls) == self.last_call:
            raise Interrupted
        self.calls.append((len(states), int(indices[0])))
        return super().predict(states, indices)


class Watching(GaussianDenoiser):
    """A formula that remembers what it was asked about, and takes images for brighter than they can be."""

    def __init__(self) -> None:
        super().__init__(CHAIN, mean=0.9, std=0.6)
        self.asked: list[tuple[int, Tensor]] = []

    def predict(self, states: Tensor, indices: Tensor) -> Prediction:
        self.asked.append((int(indices[0]), states.clone()))
        return super().predict(states, indices)

    @staticmethod
    def first_states(purifier: Purifier) -> tuple[int, Tensor]:
        """Return the index that the reverse chain of all samples starts from, and the states there."""
        assert isinstance(purifier.denoiser, Watching)
        purifier.copies(np.arange(len(purifier.images)))
        return purifier.denoiser.asked[0]


class Stubbed(DataElixir):
    """With a denoiser handed in."""

    denoiser: Denoiser

    def refuse_no_denoiser(self, case: Case) -> None:
        pass

    def prepare_denoiser(self, case: Case, context: Context) -> Denoiser:
        return self.denoiser


def run(
    case: Case | None = None,
    denoiser: Denoiser | None = None,
    *,
    seed: int = 0,
    work: Path | None = None,
    **values: Any,
) -> Outcome:
    defense = Stubbed({**SHORT, **values})
    defense.denoiser = denoiser or Counting()
    return defense.run(case or tiny_case(), Context(seed=seed, work_dir=work))


def suspects(case: Case) -> ImageSet:
    assert case.train is not None
    return case.train


def oracle(case: Case, wanted: ImageSet | None = None) -> OracleDenoiser:
    """Return a denoiser that turns every suspect image into that of *wanted*, by default into itself."""
    images = wanted or suspects(case)
    return OracleDenoiser(CHAIN, to_batch(images.read(slice(None)), torch.device("cpu")), torch.tensor(images.ids))


def samples(outcome: Outcome) -> dict[str, np.ndarray[Any, Any]]:
    return {name: np.array(values) for name, values in outcome.tables["samples"].items()}


def purifier(settings: Mapping[str, Any], images: ImageSet, denoiser: Denoiser, seed: int = 5) -> Purifier:
    made = DataElixirSettings.build({**SHORT, **settings})
    return Purifier(denoiser, plan_round(denoiser, made, images), made, images, seed)


# candidates


@pytest.mark.parametrize("beyond", [False, True])
def test_the_forward_jump_has_the_right_mean_and_spread(beyond: bool) -> None:
    grey = ImageSet(np.full((55, 8, 8, 3), 200, np.uint8), np.zeros(55, int), 2)
    index, states = Watching.first_states(purifier({"jump_beyond": beyond}, grey, Watching()))
    assert index == (150 if beyond else 149) and states.numel() >= 10_000
    kept, draws = float(CHAIN.alphas_cumprod[index]), states.numel()
    spread, image = (1 - kept) ** 0.5, 2 * 200 / 255 - 1
    assert float(states.mean()) == pytest.approx(image * kept**0.5, abs=3 * spread / draws**0.5)
    assert float(states.std()) == pytest.approx(spread, abs=3 * spread / (2 * draws) ** 0.5)


def test_a_jump_beyond_the_chain_changes_the_states_by_one_noise_step_and_nothing_else() -> None:
    """The step in front is idle: denoising from it gives what noising deeper and denoising from T − 1 gives."""
    images = tiny_case(size=4).train
    assert images is not None
    plain, beyond = (purifier({"jump_beyond": deeper}, images, Counting()) for deeper in (False, True))
    assert beyond.planned.indices == (150, *plain.planned.indices)
    rows = np.arange(4)
    assert (plain.copies(rows) != beyond.copies(rows)).any()
    states = torch.randn(2, 3, 4, 4)
    idle = beyond.planned.steps[0]
    noise, image = torch.randn_like(states), torch.randn_like(states)
    prediction = Prediction(torch.randn_like(states))
    after = reverse(idle, states, image, prediction, noise, sampler="ddpm", variance="fixed_large")
    assert torch.equal(after, states)


def test_a_jump_beyond_the_end_of_the_chain_is_refused() -> None:
    whole = {"level": {"steps": 1000, "of": 1000}}
    with pytest.raises(SettingsError, match="beyond the end"):
        purifier({"jump_beyond": True, "purification": {**ROUNDS, **whole}}, suspects(tiny_case()), Counting())


def test_every_copy_costs_what_the_plan_says_and_no_more() -> None:
    images, denoiser = suspects(tiny_case()), Counting()
    full = {"purification": {"steps": None, "dense_below": 0, "rounds": 2}, "states": 10}
    copies = purifier(full, images, denoiser).copies(np.arange(5))
    assert copies.shape == (5, 20, 8, 8, 3) and copies.dtype == np.uint8
    assert [index for _, index in denoiser.calls] == [*range(149, -1, -1)] * 2
    assert {size for size, _ in denoiser.calls} == {5}


def test_the_last_state_of_every_round_is_what_an_oracle_knows() -> None:
    case = tiny_case()
    images = suspects(case)
    copies = purifier({}, images, oracle(case)).copies(np.arange(6)).reshape(6, 2, 2, 8, 8, 3)
    for number in range(2):
        assert (copies[:, number, -1] == images.read(np.arange(6))).all()


@pytest.mark.parametrize("clip", [True, False])
def test_a_round_starts_from_the_clamped_final_state_of_the_one_before(clip: bool) -> None:
    images, denoiser, rows = suspects(tiny_case()), Watching(), np.arange(5)
    made = purifier({"purification": {**ROUNDS, "rounds": 3, "clip": clip}, "states": 1}, images, denoiser)
    copies, steps, ids = made.copies(rows), made.planned.steps, torch.tensor(images.ids[rows])
    start = to_batch(images.read(rows), denoiser.device)
    beyond = False
    for number in range(3):
        seed = derive_seed(made.seed, "round", number)
        noise = normal_noise(seed, ids, 0, made.planned.t_star, (3, 8, 8), device="cpu")
        states_seen = denoiser.asked[number * len(steps) : (number + 1) * len(steps)]
        assert torch.equal(states_seen[0][1], jump(steps[0], start * 2 - 1, noise))
        index, last = states_seen[-1]
        final = predicted_image(steps[-1], last, denoiser.predict(last, torch.full((5,), index)).eps, clip=False)
        denoiser.asked.pop()  # that was a question of this test
        beyond |= bool((final.abs() > 1).any())
        start = final.clamp(-1, 1).add(1).div(2)
        assert (copies[:, number] == start.permute(0, 2, 3, 1).mul(255).round().to(torch.uint8).numpy()).all()
    assert beyond  # so that clamping is not idle


def test_noise_adds_up_over_rounds() -> None:
    """Chained rounds, and a denoiser that sees no noise anywhere."""
    grey = ImageSet(np.full((40, 8, 8, 3), 128, np.uint8), np.zeros(40, int), 2)
    rounds = {"rounds": 3, "steps": 1, "dense_below": 0, "level": {"steps": 3, "of": 1000}}
    blind = GaussianDenoiser(CHAIN, mean=0.0, std=1e6)
    settings = {"purification": rounds, "states": 1, "keep": "predictions"}
    copies = purifier(settings, grey, blind).copies(np.arange(40)).astype(float)
    spread = copies.std((0, 2, 3, 4))
    np.testing.assert_allclose(spread / spread[0], np.sqrt([1, 2, 3]), rtol=0.05)


def test_slot_0_is_the_image_itself_and_rows_keep_their_copies(tmp_path: Path) -> None:
    images = suspects(tiny_case())
    made = purifier({}, images, Counting())
    candidates = Candidates(images, 5)
    first, rest = np.array([3, 50, 7]), np.array([9, 0])
    for name, rows in (("first", first), ("rest", rest)):
        candidates.add(rows, make_copies(made, rows, tmp_path / name, Context(), name))
    assert np.flatnonzero(candidates.known).tolist() == [0, 3, 7, 9, 50]
    found = candidates.read(np.array([0, 7]))
    assert (found[:, 0] == images.read(np.array([0, 7]))).all()
    assert (found[:, 1:] == made.copies(np.array([0, 7]))).all()


def test_quantising_rounds_and_only_the_released_way_loses_grey_levels() -> None:
    case = tiny_case()
    images = suspects(case)
    rounded = purifier({}, images, oracle(case)).copies(np.arange(8))[:, -1]
    cut = purifier({"quantise": "truncate"}, images, oracle(case)).copies(np.arange(8))[:, -1]
    original = images.read(np.arange(8))
    assert (rounded == original).all()
    assert set(np.unique(original.astype(int) - cut)) == {0, 1}
    assert (truncated(original) <= original).all() and (truncated(original) != original).any()
    for truncate, shown in ((False, original), (True, truncated(original))):
        candidates = Candidates(images, 2, truncate=truncate)
        candidates.add(np.arange(8), original[:, None])
        assert (candidates.read(np.arange(8))[:, 0] == shown).all()


def test_float_images_are_not_quantised() -> None:
    case = tiny_case()
    faint = suspects(case).replace(images=(suspects(case).read(slice(None)) / np.float32(255)).astype(np.float32))
    outcome = run(dataclasses.replace(case, train=faint), detection=TARGET)
    assert outcome.train is not None and outcome.train.images.dtype == np.float32
    changed = outcome.train.read(np.flatnonzero(samples(outcome)["chosen"]))
    assert len(changed) and (np.abs(changed * 255 - np.rint(changed * 255)) > 1e-3).any()


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_copies_do_not_depend_on_the_batch_size(batch: int) -> None:
    images = suspects(tiny_case())
    rows = np.arange(20)
    expected = purifier({}, images, Counting()).copies(rows)
    found = purifier({"purification": {**ROUNDS, "batch_size": batch}}, images, Counting()).copies(rows)
    assert (found == expected).all()


def test_copies_depend_on_seed_and_sample_but_not_on_the_company() -> None:
    images = suspects(tiny_case())
    both = purifier({}, images, Counting()).copies(np.array([3, 4]))
    assert (purifier({}, images, Counting()).copies(np.array([4])) == both[1:]).all()
    assert (purifier({}, images, Counting(), seed=6).copies(np.array([3, 4])) != both).any()
    assert (both[0] != both[1]).any()


def test_coarse_chains_whose_last_states_are_noisy_are_refused() -> None:
    images = suspects(tiny_case())
    coarse = {"purification": {"rounds": 1, "steps": 10, "dense_below": 0}, "states": 3}
    with pytest.raises(SettingsError, match="noisy") as refusal:
        purifier(coarse, images, Counting())
    assert "dense_below=3" in str(refusal.value)
    assert purifier({**coarse, "keep": "predictions"}, images, Counting()).copies(np.arange(2)).shape[1] == 3
    with pytest.raises(SettingsError, match="more states"):
        purifier({**coarse, "states": 11, "keep": "predictions"}, images, Counting())


def test_predictions_kept_of_a_ddim_chain_are_free_of_noise() -> None:
    case = tiny_case()
    images = suspects(case)
    settings = {"purification": {"rounds": 1, "steps": 4, "dense_below": 0, "sampler": "ddim"}, "states": 4}
    copies = purifier({**settings, "keep": "predictions"}, images, oracle(case)).copies(np.arange(3))
    assert (copies == images.read(np.arange(3))[:, None]).all()


def test_noise_level_zero_copies_the_originals() -> None:
    outcome = run(purification={"level": {"steps": 0, "of": 1000}}, states=1, detection=TARGET)
    assert outcome.tables["status"]["stable"] == 96 and outcome.tables["nfe_per_purified_image"] == 0
    assert outcome.noise_level == 0  # so that no control adds any


def test_the_outcome_tells_what_controls_without_a_denoiser_need() -> None:
    case = tiny_case()
    outcome = run(case, detection=TARGET)
    assert outcome.noise_level == outcome.tables["noise_level"] == CHAIN.noise_std(150)
    assert outcome.noise_level == pytest.approx(66 / 255, abs=1e-3)  # of one round, in pixel scale
    assert outcome.undefended is not None  # the probe
    assert not outcome.undefended.module.training and outcome.undefended is not outcome.model
    assert run(case, probe="case", detection=TARGET).undefended is None


# what changes and what does not


def test_only_target_classes_change_and_stable_samples_stay() -> None:
    case = tiny_case()
    before, outcome = suspects(case), run(case, detection=TARGET)
    after, table = outcome.train, samples(outcome)
    assert after is not None and outcome.flagged is not None and after.ids.tolist() == before.ids.tolist()
    changed = (after.read(slice(None)) != before.read(slice(None))).any((1, 2, 3)) | (after.labels != before.labels)
    assert (changed <= outcome.flagged).all() and changed.any()
    outside = before.labels != 0
    assert not outcome.flagged[outside].any() and not outcome.flagged[table["status"] == 0].any()
    assert table["action"][outside].sum() == 0 and (table["old_label"] == before.labels).all()
    assert (table["new_label"] == after.labels).all()
    assert outcome.kept is not None and outcome.kept.tolist() == list(range(96))
    assert outcome.verdict is not None and outcome.verdict.poisoned is None


def test_the_chosen_slot_is_the_image_that_is_handed_back(tmp_path: Path) -> None:
    case = tiny_case()
    outcome = run(case, work=tmp_path, detection=TARGET)
    assert outcome.train is not None
    copies = np.load(tmp_path / "dataelixir" / "first" / "data.npy")
    chosen = samples(outcome)["chosen"]
    rows = np.flatnonzero(chosen)
    assert len(rows) and (outcome.train.read(rows) == copies[rows, chosen[rows] - 1]).all()


def test_copies_of_the_original_change_nothing_even_where_every_class_is_a_target() -> None:
    case = tiny_case()
    kept = {"purification": {**ROUNDS, "sampler": "ddim"}, "keep": "predictions"}
    for mode in ("mad", "all"):
        outcome = run(case, oracle(case), detection={"mode": mode}, **kept)
        assert outcome.tables["target_classes"] == ([] if mode == "mad" else [0, 1, 2, 3])
        assert outcome.train is not None and outcome.flagged is not None
        assert outcome.train.fingerprint() == suspects(case).fingerprint() and not outcome.flagged.any()
        assert outcome.tables["status"]["stable"] == 96
    assert outcome.model is not None and any("the probe" in note for note in outcome.notes)
    assert detection_metrics(outcome.scores, outcome.flagged, Truth(np.zeros(96, bool), kind="none")).tpr is None


def test_a_set_without_a_target_class_comes_back_bit_identical() -> None:
    case = tiny_case()
    outcome = run(case, detection={"min_anomalies": 1000})
    assert outcome.tables["target_classes"] == [] and outcome.tables["status"]["stable"] < 96
    assert outcome.train is not None and outcome.train.fingerprint() == suspects(case).fingerprint()
    assert outcome.verdict is not None and outcome.verdict.poisoned is False
    assert "of 20 clean sets of synthetic images, 2 had" in outcome.verdict.meaning


def repainting_case(flip: int = 20) -> tuple[Case, OracleDenoiser, np.ndarray[Any, Any]]:
    """Return a case, the denoiser that uncovers its poison, and where that is.

    *flip* samples of other classes look like one of class 0 and are labelled so; the denoiser knows what they were. The
    case's model was trained on clean images.
    """
    clean = tiny_case(seed=1, num_classes=4).clean
    assert clean is not None
    model = Classifier.build("fast_resnet", 4, seed=0, mean=(0.5,), std=(0.25,))
    recipe = Recipe(epochs=12, batch_size=16, lr=0.05)
    train(
        model,
        ShuffledBatches(Samples(clean, torch.device("cpu")), 16, Context(), recipe.augmentation),
        recipe,
        Context(),
    )
    labels = np.arange(96) % 4
    pixels = np.concatenate([clean.read(slice(None))] * 2)
    shown = pixels.copy()
    rows = np.flatnonzero(labels != 0)[:flip]
    shown[rows] = pixels[0]  # looks like class 0
    given = labels.copy()
    given[rows] = 0
    case = Case(train=ImageSet(shown, given, 4), model=model)
    return case, OracleDenoiser(CHAIN, to_batch(pixels, torch.device("cpu"))), rows


@pytest.fixture(scope="module")
def poisoned() -> tuple[Case, OracleDenoiser, np.ndarray[Any, Any]]:
    return repainting_case()


def test_poison_that_purification_uncovers_is_found_and_gets_its_true_label(
    poisoned: tuple[Case, OracleDenoiser, np.ndarray[Any, Any]],
) -> None:
    case, denoiser, rows = poisoned
    outcome = run(case, denoiser, probe="case", architecture=None, train_final=False)
    assert outcome.tables["target_classes"] == [0] and outcome.flagged is not None and outcome.train is not None
    assert np.flatnonzero(outcome.flagged).tolist() == rows.tolist()
    assert (outcome.train.labels == np.arange(96) % 4).mean() == 1
    assert outcome.tables["action"]["repaired"] == len(rows) and outcome.model is None
    assert outcome.scores is not None and outcome.scores[rows].min() > np.delete(outcome.scores, rows).max()
    assert outcome.verdict is not None and outcome.verdict.poisoned is True
    assert outcome.verdict.score is not None and outcome.verdict.score > outcome.tables["threshold"]


@pytest.mark.parametrize(
    ("mode", "clean", "used"), [("auto", 80, "excess"), ("auto", 79, "mad"), ("excess", 40, "excess")]
)
def test_reserved_clean_images_serve_as_reference_set(
    poisoned: tuple[Case, OracleDenoiser, np.ndarray[Any, Any]], mode: str, clean: int, used: str
) -> None:
    case, oracle_of_suspects, rows = poisoned
    pixels, ids = oracle_of_suspects.clean, torch.arange(96)
    shown = pixels.permute(0, 2, 3, 1).mul(255).round().to(torch.uint8).numpy()
    reserved = ImageSet(shown[:clean], np.arange(clean) % 4, 4, ids=np.arange(clean) + 1000)
    knowing = OracleDenoiser(CHAIN, torch.cat([pixels, pixels]), torch.cat([ids, ids + 1000]))
    known = dataclasses.replace(case, clean=reserved)
    values = {"probe": "case", "architecture": None, "train_final": False, "detection": {"mode": mode}}
    outcome = run(known, knowing, **values)
    assert outcome.tables["detection"] == used and outcome.tables["target_classes"] == [0]
    assert outcome.flagged is not None and np.flatnonzero(outcome.flagged).tolist() == rows.tolist()
    assert [
        finding["class"] for finding in outcome.tables["classes"] if finding["score"] > outcome.tables["threshold"]
    ] == [0]
    assert outcome.verdict is not None and ("reserved clean images" in outcome.verdict.meaning) == (used == "excess")
    assert f"{'none' if used == 'excess' else 2} had such a class" in outcome.verdict.meaning


def test_a_missing_reference_set_is_refused() -> None:
    lacking = dataclasses.replace(tiny_case(), clean=None)
    with pytest.raises(MissingNeedError, match="clean set to compare with"):
        run(lacking, detection={"mode": "excess"})


def test_a_reference_set_that_the_denoiser_was_trained_on_is_noted() -> None:
    case = tiny_case()
    values: dict[str, Any] = {"detection": {"mode": "excess", "reference_per_class": 4}}
    for denoiser, told in ((tiny_denoiser(case.clean), True), (tiny_denoiser(None), False)):
        notes = run(case, denoiser, **values).notes
        assert any("trained on 16 of the 16 reserved clean images" in note for note in notes) == told


def test_a_killed_run_with_a_reference_set_resumes(tmp_path: Path) -> None:
    values: dict[str, Any] = {"detection": {"mode": "excess", "reference_per_class": 4}}
    whole = run(work=tmp_path / "whole", **values)
    with pytest.raises(Interrupted):
        run(denoiser=Counting(last_call=4), work=tmp_path / "killed", **values)
    assert same_outcome(run(work=tmp_path / "killed", **values), whole) == []


def test_unanimous_labels_can_be_left_to_the_benign_model(
    poisoned: tuple[Case, OracleDenoiser, np.ndarray[Any, Any]],
) -> None:
    case, denoiser, rows = poisoned
    outcome = run(case, denoiser, probe="case", verify_unanimous=True, train_final=False)
    assert outcome.tables["action"]["relabelled by the benign model"] == len(rows)
    assert outcome.tables["action"]["repaired"] == 0 and outcome.model is not None
    assert "benign_loss" in outcome.curves


def test_stable_samples_of_target_classes_are_replaced_on_request(
    poisoned: tuple[Case, OracleDenoiser, np.ndarray[Any, Any]],
) -> None:
    """Clean-label poison: the label is right, the trigger has to go."""
    case, denoiser, rows = poisoned
    outcome = run(case, denoiser, probe="case", purify_all_in_target=True, train_final=False)
    table, given = samples(outcome), suspects(case).labels
    assert (table["chosen"][given == 0] > 0).all() and not (table["chosen"][given != 0] > 0).any()
    stable = (given == 0) & ~np.isin(np.arange(96), rows)
    assert (table["new_label"][stable] == 0).all() and (table["status"][stable] == 0).all()


def test_the_given_label_as_anchor_finds_poison_the_probe_never_learned(
    poisoned: tuple[Case, OracleDenoiser, np.ndarray[Any, Any]],
) -> None:
    """B7: where the probe sees through the original, nothing moves, and only the given label shows the poison."""
    case, denoiser, rows = poisoned
    bare = suspects(case).replace(images=denoiser.clean.permute(0, 2, 3, 1).mul(255).round().to(torch.uint8).numpy())
    seen_through = dataclasses.replace(case, train=bare)
    kept = {"probe": "case", "train_final": False}
    missed = run(seen_through, denoiser, **kept)
    found = run(seen_through, denoiser, anchor="given", **kept)
    assert missed.tables["target_classes"] == []
    assert found.tables["target_classes"] == [0] and found.flagged is not None
    assert np.flatnonzero(found.flagged).tolist() == rows.tolist()


def test_two_phases_end_like_the_full_run_at_less_cost(
    poisoned: tuple[Case, OracleDenoiser, np.ndarray[Any, Any]],
) -> None:
    case, denoiser, _ = poisoned
    kept: dict[str, Any] = {"probe": "case", "train_final": False, "detection": {"min_anomalies": 3}}
    full = run(case, denoiser, **kept)
    two = run(case, denoiser, detect_per_class=14, **kept)
    assert two.tables["target_classes"] == full.tables["target_classes"] == [0]
    assert two.tables["purified"] < full.tables["purified"] == 96
    assert two.train is not None and full.train is not None
    assert two.train.fingerprint() == full.train.fingerprint()
    assert (samples(two)["chosen"] == samples(full)["chosen"]).all()
    status = samples(two)["status"]
    assert (status == -1).sum() == 96 - two.tables["purified"] and (status[suspects(case).labels == 0] >= 0).all()


def test_two_phases_fall_back_to_the_full_run_when_no_class_stands_out() -> None:
    outcome = run(detect_per_class=10, detection={"min_anomalies": 1000})
    assert outcome.tables["purified"] == 96 and any("fell back" in note for note in outcome.notes)


@pytest.mark.parametrize(("cut", "first"), [(1.5, [0]), (1.59, [])], ids=["just found", "just missed"])
def test_two_phases_fall_back_to_the_full_run_when_the_decision_is_a_close_one(
    poisoned: tuple[Case, OracleDenoiser, np.ndarray[Any, Any]],
    monkeypatch: pytest.MonkeyPatch,
    cut: float,
    first: list[int],
) -> None:
    """d of class 0 is 1.587 on the first samples and 1.600 on all of them."""
    case, denoiser, rows = poisoned
    values: dict[str, Any] = {"detection": {"min_anomalies": 3, "absolute_cut": cut}, "probe": "case"}
    full = run(case, denoiser, train_final=False, **values)
    findings: list[ClassFinding] = []

    def found(*parts: Any) -> ClassFinding:
        findings.append(find_targets(*parts))
        return findings[-1]

    monkeypatch.setattr(dataelixir, "find_targets", found)
    two = run(case, denoiser, detect_per_class=14, train_final=False, **values)
    assert [finding.targets for finding in findings] == [first, [0]] and findings[0].doubtful
    assert findings[0].size.tolist() == [14] * 4
    assert any("fell back" in note and "the decision was a close one" in note for note in two.notes)
    assert same_outcome(two, full) == [] and two.tables["purified"] == 96
    assert two.flagged is not None and np.flatnonzero(two.flagged).tolist() == rows.tolist()


def finding_once(doubtful: list[bool], monkeypatch: pytest.MonkeyPatch) -> list[ClassFinding]:
    """Let decisions be close ones, one after the other, as *doubtful* says; return what is found."""
    findings: list[ClassFinding] = []

    def found(*parts: Any) -> ClassFinding:
        findings.append(dataclasses.replace(find_targets(*parts), doubtful=doubtful[len(findings)]))
        return findings[-1]

    monkeypatch.setattr(dataelixir, "find_targets", found)
    return findings


@pytest.mark.parametrize(
    ("doubtful", "sizes"),
    [([False], [3]), ([True, False], [3, 12]), ([True, True, False], [3, 12, 17]), ([True, True, True], [3, 12, 17])],
)
def test_an_open_decision_grows_the_first_phase_until_it_is_clear(
    doubtful: list[bool],
    sizes: list[int],
    poisoned: tuple[Case, OracleDenoiser, np.ndarray[Any, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once all samples are purified, there is nothing to grow."""
    case, denoiser, rows = poisoned
    values: dict[str, Any] = {"probe": "case", "train_final": False, "detection": TARGET}
    full = run(case, denoiser, **values)
    monkeypatch.setattr(dataelixir, "some_per_class", lambda images, count, _: first_of_each(images, count))
    findings = finding_once(doubtful, monkeypatch)
    two = run(case, denoiser, detect_per_class=10, fallback="grow", **values)
    assert [int(finding.size[1]) for finding in findings] == sizes
    counts = suspects(case).class_counts()
    assert two.tables["purified"] == counts[0] + (counts[1:].sum() if len(sizes) == 3 else 3 * sizes[-1])
    assert two.train is not None and full.train is not None and two.train.fingerprint() == full.train.fingerprint()
    assert two.flagged is not None and np.flatnonzero(two.flagged).tolist() == rows.tolist()
    assert not any("fell back" in note for note in two.notes)


def first_of_each(images: ImageSet, count: int) -> np.ndarray[Any, Any]:
    """Return the first samples of each class: 3 where 10 are asked for, then 12, then all."""
    few = {10: 3, 40: 12}.get(count, 96)
    return np.sort(np.concatenate([np.flatnonzero(images.labels == label)[:few] for label in range(4)]))


def test_that_no_class_stands_out_is_an_answer_where_clean_images_are_compared_with() -> None:
    case = tiny_case()
    images, ids = suspects(case), torch.arange(96)
    shown = to_batch(images.read(slice(None)), torch.device("cpu"))
    reserved = ImageSet(images.read(slice(None)), images.labels, 4, ids=np.arange(96) + 1000)
    known, denoiser = (
        dataclasses.replace(case, clean=reserved),
        OracleDenoiser(CHAIN, torch.cat([shown, shown]), torch.cat([ids, ids + 1000])),
    )
    values: dict[str, Any] = {"detect_per_class": 10, "fallback": "grow", "train_final": False, "probe": "case"}
    values["architecture"] = None
    found = run(known, denoiser, detection={"mode": "excess"}, **values)
    assert found.tables["target_classes"] == [] and found.tables["purified"] == 40
    assert found.verdict is not None and found.verdict.poisoned is False
    assert found.train is not None and found.train.fingerprint() == images.fingerprint()
    without = run(known, denoiser, detection={"mode": "mad"}, **values)
    assert without.tables["purified"] == 96  # few samples are not judged there: it grows to the end


def test_growing_needs_something_to_grow() -> None:
    with pytest.raises(SettingsError, match="detect_per_class"):
        DataElixirSettings.build({"fallback": "grow"})
    plain, two = DataElixirSettings(), DataElixirSettings(detect_per_class=50, fallback="grow")
    assert "fallback" not in plain.under_first_names(plain.dump()) and plain.fingerprint() != two.fingerprint()


def test_a_target_class_that_the_first_phase_holds_whole_leaves_nothing_to_do() -> None:
    images = suspects(tiny_case())
    few = images.subset(np.setdiff1d(np.arange(96), np.flatnonzero(images.labels == 0)[8:]))
    outcome = run(Case(train=few), detect_per_class=10, detection=TARGET)
    assert outcome.tables["purified"] == 38 and outcome.tables["changed"]["samples"] > 0


def test_the_samples_of_the_first_phase_are_as_many_per_class_and_random() -> None:
    images = suspects(tiny_case())
    rows = some_per_class(images, 10, Context(seed=1))
    assert np.bincount(images.labels[rows]).tolist() == [10] * 4 and (np.diff(rows) > 0).all()
    assert rows.tolist() != some_per_class(images, 10, Context(seed=2)).tolist()
    assert len(some_per_class(images, 1000, Context())) == 96


def test_dropping_samples_that_do_not_move_saves_evaluations_and_keeps_those_that_moved(
    poisoned: tuple[Case, OracleDenoiser, np.ndarray[Any, Any]],
) -> None:
    case, denoiser, rows = poisoned

    class Tallied(OracleDenoiser):
        seen = 0

        def predict(self, states: Tensor, indices: Tensor) -> Prediction:
            Tallied.seen += len(states)
            return super().predict(states, indices)

    rounds = {**ROUNDS, "rounds": 3}
    kept: dict[str, Any] = {"probe": "case", "train_final": False, "purification": rounds}
    spent = []
    for drop in (None, 1):
        Tallied.seen = 0
        outcome = run(case, Tallied(CHAIN, denoiser.clean), drop_stable_after=drop, **kept)
        spent.append(Tallied.seen)
        assert outcome.flagged is not None and np.flatnonzero(outcome.flagged).tolist() == rows.tolist()
    assert spent[0] == 96 * 9 and 3 * 96 + 6 * len(rows) <= spent[1] < spent[0] / 1.5
    with pytest.raises(SettingsError, match="nothing is saved"):
        DataElixirSettings.build({"drop_stable_after": 5})


# edges


def repairer(labels: np.ndarray[Any, Any], context: Context, **values: Any) -> Repairer:
    """Return what repairs the tiny case when the probe's votes are *labels* ``[96, 5]``."""
    case = tiny_case()
    images, rows = suspects(case), np.arange(96)
    candidates = Candidates(images, 5)
    candidates.add(rows, purifier({}, images, Counting()).copies(rows))
    trainer = Trainer(DataElixirSettings.build({**SHORT, "probe": "case", **values}), context, None)
    trainer.make_probe(case)
    return Repairer(candidates, rows, count_votes(labels, trainer.settings.threshold), trainer)


def moved(rows: np.ndarray[Any, Any], *, ambiguous: bool = True) -> np.ndarray[Any, Any]:
    """Return votes in which the samples *rows* move half, or else all, of their copies to the next class."""
    labels = np.repeat(suspects(tiny_case()).labels[:, None], 5, axis=1)
    labels[rows, 3 if ambiguous else 1 :] = (labels[rows, 3 if ambiguous else 1 :] + 1) % 4
    return labels


def test_every_sample_suspicious_is_survived_and_changes_nothing() -> None:
    context = Context()
    repair = repairer(moved(np.arange(96)), context).repair(np.ones(4, bool))
    assert not repair.changed(suspects(tiny_case()).labels).any() and repair.model is None
    assert any("nothing to train a benign model on" in note for note in context.notes)


def test_a_starved_target_class_is_told() -> None:
    mine = np.flatnonzero(suspects(tiny_case()).labels == 0)
    for left, told in ((1, True), (len(mine) // 2, False)):
        context = Context()
        repairer(moved(mine[left:]), context).repair(np.arange(4) == 0)
        assert any("hardly knows" in note for note in context.notes) == told


@pytest.mark.parametrize(("seen", "stages"), [(3, ["benign"]), (0, ["benign", "benign_2"])])
def test_no_consensus_means_no_second_stage(monkeypatch: pytest.MonkeyPatch, seen: int, stages: list[str]) -> None:
    """B10; and the label is the benign model's own, whatever the copies say."""
    mine = np.flatnonzero(suspects(tiny_case()).labels == 0)[:5]
    monkeypatch.setattr(dataelixir_repair, "predict_slots", lambda _m, c, rows, *_: np.full((len(rows), c.slots), seen))
    made = repairer(moved(mine), Context())
    repair = made.repair(np.arange(4) == 0)
    assert [key.removesuffix("_loss") for key in made.trainer.curves if key.endswith("_loss")] == stages
    assert (repair.labels[mine] == seen).all() and (repair.chosen[mine] > 0).all()


def test_a_copy_that_the_benign_model_sees_otherwise_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = np.flatnonzero(suspects(tiny_case()).labels == 0)[:5]
    seen = np.array([2, 1, 2, 1, 1])
    monkeypatch.setattr(dataelixir_repair, "predict_slots", lambda _m, _c, rows, *_: np.tile(seen, (len(rows), 1)))
    repair = repairer(moved(mine), Context()).repair(np.arange(4) == 0)
    assert repair.chosen[mine].tolist() == [2] * 5  # L = 2: the farther one
    seen[2] = 1
    repair = repairer(moved(mine), Context()).repair(np.arange(4) == 0)
    assert repair.chosen[mine].tolist() == [0] * 5 and repair.labels[mine].tolist() == [2] * 5  # L = 1: the original


def test_target_classes_are_filled_up_for_the_benign_model_with_copies_that_look_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = suspects(tiny_case()).labels
    mine = np.flatnonzero(labels == 0)
    learned: list[ImageSet] = []

    def learn(_self: Any, images: ImageSet, model: Classifier, _name: str, _lr: float | None = None) -> Classifier:
        learned.append(images)
        return model.eval()

    monkeypatch.setattr(models.Trainer, "learn", learn)
    votes = moved(mine[4:])
    votes[mine[:4], 2] = 3  # one stray vote each, too few to count
    for rebalance in (False, True):
        learned.clear()
        made = repairer(votes, Context(), rebalance=rebalance)
        made.repair(np.arange(4) == 0)
        counts = learned[0].class_counts()
        assert (
            counts[0] == (counts.max() if rebalance else 4) and counts[1:].tolist() == np.bincount(labels)[1:].tolist()
        )
    copies = made.candidates.read(mine[:4])
    allowed = {image.tobytes() for image in copies[:, [1, 3, 4]].reshape(-1, 8, 8, 3)}
    extra = learned[0].read(slice(96 - len(mine) + 4, None))
    assert len(extra) and {image.tobytes() for image in extra} <= allowed


def test_sets_too_large_for_memory_give_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(detection=TARGET)
    monkeypatch.setattr(dataelixir_repair, "IN_MEMORY", 0)
    assert same_outcome(run(detection=TARGET), expected) == []


@pytest.mark.parametrize("batch", [64, 128])
def test_sets_smaller_than_a_batch_and_missing_classes_work(batch: int) -> None:
    case = tiny_case()
    few = suspects(case).subset(np.flatnonzero(suspects(case).labels != 2)[:24])
    outcome = run(Case(train=few), recipe={**SHORT["recipe"], "batch_size": batch}, detection=TARGET)
    assert outcome.train is not None and len(outcome.train) == 24
    assert len(outcome.tables["classes"]) == 4 and outcome.tables["classes"][2]["size"] == 0


class Pictures(Dataset[tuple[Image.Image, int]]):
    """Suspect images as PIL images, as torchvision's datasets hand them out."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images.read(np.array([index]))[0]), int(self.images.labels[index])


def test_pil_images_become_pixels_and_arrays_of_objects_are_refused() -> None:
    """B11: numpy makes an object array [N, H, W, 3] of a list of PIL images when asked for objects."""
    images = suspects(tiny_case())
    pictures, lone = [picture for picture, _ in map(Pictures(images).__getitem__, range(96))], np.empty(96, object)
    lone[:] = pictures
    objects = np.array(pictures, dtype=object)
    assert objects.shape == (96, 8, 8, 3) and lone.shape == (96,)
    for array, refusals in (
        (objects, ("must be uint8, or float32 in .* object", "pixels of this type are not read .* object")),
        (lone, (r"must be \[N, H, W, C\] .* \(96,\)", r"must have four axes .* \(96,\)")),
    ):
        with pytest.raises(InputError) as by_set:
            ImageSet(array, images.labels, 4)
        with pytest.raises(InputError) as by_adapter:
            Arrays.from_arrays(x_train=array, y_train=images.labels)
        for refusal, said in zip((by_set, by_adapter), refusals, strict=True):
            assert re.search(said, " ".join(str(refusal.value).split()))
    expected = run(Case(train=images), detection=TARGET)
    for read in (Arrays.from_arrays(x_train=pictures, y_train=images.labels).train, as_image_set(Pictures(images), 4)):
        assert read is not None and read.images.dtype == np.uint8
        assert same_outcome(run(Case(train=read), detection=TARGET), expected) == []


def test_two_classes_work_and_one_is_refused() -> None:
    images = suspects(tiny_case())
    outcome = run(Case(train=ImageSet(images.read(slice(None)), images.labels % 2, 2)))
    assert any("none can stand out" in note for note in outcome.notes)
    with pytest.raises(InputError, match="another label"):
        run(Case(train=ImageSet(images.read(slice(None)), images.labels * 0, 1)))


def test_the_truth_plays_no_part() -> None:
    case = tiny_case()
    assert case.truth is not None
    other = dataclasses.replace(case, truth=Truth(~case.truth.poison), origin=Origin("elsewhere"))
    assert same_outcome(run(case, detection=TARGET), run(other, detection=TARGET)) == []
    assert not {"poison", "truth", "indicator"} & set(DataElixirSettings.model_fields)


def test_learning_rates_of_the_recipe_are_not_changed_by_the_second_stage() -> None:
    defense = Stubbed({**SHORT, "detection": TARGET, "fine_tune_lr": 0.5})
    before = defense.settings.dump()
    defense.denoiser = Counting()
    defense.run(tiny_case(), Context())
    assert defense.settings.dump() == before


# interruption


TRAININGS = ("dataelixir-probe", "dataelixir-benign", "dataelixir-benign_2", "dataelixir-final")
TWO_EPOCHS: dict[str, Any] = {"detection": TARGET, "recipe": {**SHORT["recipe"], "epochs": 2}}


@pytest.fixture(scope="module")
def whole() -> Outcome:
    """The outcome of a run with all four trainings that nothing interrupts."""
    return run(**TWO_EPOCHS)


def watched_epochs(patched: pytest.MonkeyPatch, stop: tuple[str, int] | None = None) -> list[tuple[str, int]]:
    """Note which epochs of which training are begun; at *stop*, the run is interrupted."""
    begun: list[tuple[str, int]] = []
    epoch = ShuffledBatches.epoch

    def noted(self: ShuffledBatches, number: int) -> Iterator[Batch]:
        if (self._name, number) == stop:
            raise Interrupted
        begun.append((self._name, number))
        return epoch(self, number)

    patched.setattr(ShuffledBatches, "epoch", noted)
    return begun


@pytest.mark.parametrize("number", [0, 1], ids=["begin", "middle"])
@pytest.mark.parametrize("name", TRAININGS)
def test_an_interrupted_training_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Outcome, name: str, number: int
) -> None:
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)  # a state after every epoch
    with monkeypatch.context() as patched:
        first = watched_epochs(patched, stop=(name, number))
        with pytest.raises(Interrupted):
            run(work=tmp_path, **TWO_EPOCHS)
    second, denoiser = watched_epochs(monkeypatch), Counting()
    assert same_outcome(run(denoiser=denoiser, work=tmp_path, **TWO_EPOCHS), whole) == []
    assert first + second == [(each, epoch) for each in TRAININGS for epoch in range(2)]  # none twice
    assert bool(denoiser.calls) == (name == TRAININGS[0])


@pytest.mark.parametrize(
    ("values", "calls", "done"),
    [
        ({"detection": TARGET}, 20, 24),
        ({"detection": TARGET, "detect_per_class": 10}, 30 + 6 + 3, 40 + 8),
        ({"detection": {"min_anomalies": 1000}, "detect_per_class": 10}, 30 + 18 + 2, 40 + 24),
    ],
    ids=["whole set", "second phase", "fallback"],
)
def test_an_interrupted_purification_goes_on_at_the_chunk_it_was_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], calls: int, done: int
) -> None:
    """Chunks of 8 samples, 6 evaluations each; the first phase takes 40 samples."""
    monkeypatch.setattr(purify, "CHUNK", 8)
    expected = run(**values)
    with pytest.raises(Interrupted):
        run(denoiser=Counting(last_call=calls), work=tmp_path, **values)
    resumed = Counting()
    outcome = run(denoiser=resumed, work=tmp_path, **values)
    assert same_outcome(outcome, expected) == []
    assert sum(size for size, _ in resumed.calls) == 6 * (outcome.tables["purified"] - done) > 0


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (dataelixir, "predict_slots"),
        (dataelixir, "find_targets"),
        (dataelixir_repair, "select_slots"),
        (dataelixir_repair, "predict_slots"),
        (dataelixir, "repaired_set"),
        (dataelixir, "build_outcome"),
    ],
    ids=["vote", "target", "select", "benign vote", "repaired set", "outcome"],
)
def test_a_run_interrupted_between_purification_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Outcome, module: Any, name: str
) -> None:
    def failing(*_parts: Any, **_options: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(module, name, failing)
        run(work=tmp_path, **TWO_EPOCHS)
    denoiser = Counting()
    assert same_outcome(run(denoiser=denoiser, work=tmp_path, **TWO_EPOCHS), whole) == []
    assert not denoiser.calls


def forked(action: Callable[[], object]) -> int:
    """Run *action* in a child process that shares everything imported here; return how it ended, see ``waitpid``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forking beside threads
        pid = os.fork()
    if not pid:
        try:
            signal.alarm(120)  # rather than to hang
            torch.set_num_threads(1)  # the other threads did not come along
            action()
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


@pytest.mark.usefixtures("no_figures")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_run_killed_while_it_purifies_goes_on_and_ends_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command itself, with a denoiser of its own; 12 chunks of 2 evaluations, and death before the eleventh."""
    case = tiny_case()
    assert case.train is not None and case.clean is not None
    arrays = {"x_train": case.train, "x_clean": case.clean}
    labels = {name.replace("x", "y", 1): each.labels for name, each in arrays.items()}
    np.savez(tmp_path / "case.npz", **{name: each.read(slice(None)) for name, each in arrays.items()}, **labels)
    rounds = {**ROUNDS, "rounds": 1, "dense_below": 1, "batch_size": 8}
    settings = {**SHORT, "purification": rounds, "states": 1, "threshold": 1, "detection": TARGET}
    file = {"defense": "dataelixir", "source": f"arrays:{tmp_path / 'case.npz'}", "settings": settings}
    (tmp_path / "run.yaml").write_text(json.dumps(file))
    tiny_denoiser(None)  # imports what takes seconds to import, once for both processes
    predict, calls = UNetDenoiser.predict, 0
    monkeypatch.setattr(purify, "CHUNK", 8)

    def command(folder: str) -> Any:
        return CliRunner().invoke(program, ["run", str(tmp_path / "run.yaml"), "--out", str(tmp_path / folder)])

    def counted(self: UNetDenoiser, states: Tensor, indices: Tensor, *, last: int | None = None) -> Prediction:
        nonlocal calls
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1
        return predict(self, states, indices)

    with monkeypatch.context() as patched:
        patched.setattr(UNetDenoiser, "predict", partialmethod(counted, last=10))
        status = forked(lambda: command("killed"))
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert not (tmp_path / "killed" / "report.json").exists() and calls == 0  # of this process
    monkeypatch.setattr(UNetDenoiser, "predict", counted)
    again = command("killed")
    assert again.exit_code == 0 and calls == 2 * (12 - 5), again.output
    assert command("whole").exit_code == 0
    first, second = (Outcome.load(tmp_path / folder / "outcome") for folder in ("killed", "whole"))
    assert same_outcome(first, second) == [] and first.tables["changed"]["samples"] > 0
    assert json.loads((tmp_path / "killed" / "report.json").read_text())["attempts"] == 2


def test_without_a_work_folder_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with_folder = run(work=tmp_path / "kept", detection=TARGET)
    outcome = run(detection=TARGET)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert same_outcome(outcome, with_folder) == []


# the denoiser


def test_a_case_without_a_denoiser_is_refused_before_any_work() -> None:
    lacking = dataclasses.replace(tiny_case(), clean=None)
    with pytest.raises(MissingNeedError, match="reserved clean set") as refusal:
        DataElixir(SHORT).run(lacking)
    assert "denoiser=" in str(refusal.value)
    with pytest.raises(MissingNeedError, match="probe"):
        DataElixir(SHORT, probe="case").run(dataclasses.replace(tiny_case(), model=None))


def tiny_denoiser(seen: ImageSet | None, variance: Variance = "fixed_small") -> UNetDenoiser:
    plan = Architecture((8, 8), 1, (False, False), {})
    network = build_unet(plan, 8, learn_sigma=variance == "learned_range")
    card = {} if seen is None else {"origin": "elsewhere", "images": {"count": len(seen), "content": hexadecimal(seen)}}
    return UNetDenoiser(network, CHAIN, variance=variance, card=card)


def test_a_denoiser_that_has_seen_the_suspect_set_is_refused_unless_forced(tmp_path: Path) -> None:
    case = tiny_case()
    tiny_denoiser(suspects(case).subset(np.arange(7))).save(tmp_path / "seen")
    values = {**SHORT, "denoiser": str(tmp_path / "seen")}
    with pytest.raises(InputError, match="trained on images of the suspect set") as refusal:
        DataElixir(values).run(case)
    assert "7 of 96" in str(refusal.value) and "force_denoiser" in str(refusal.value)
    outcome = DataElixir({**values, "force_denoiser": True}).run(case)
    assert any("paint triggers back in" in note for note in outcome.notes)
    assert outcome.tables["denoiser"]["images_seen"] == 7


def test_a_reserved_clean_set_inside_the_suspect_set_is_refused() -> None:
    case = tiny_case()
    leaking = dataclasses.replace(case, clean=suspects(case).subset(np.arange(20)))
    with pytest.raises(InputError, match="would be trained on images of the suspect set") as refusal:  # before training
        DataElixir(SHORT).estimate(leaking, Context())
    assert "20 of 96" in str(refusal.value)
    with pytest.raises(InputError, match="would be trained on images of the suspect set"):
        DataElixir({**SHORT, "fit": {**FIT, "iterations": 1}}).run(leaking)
    DataElixir(SHORT, force_denoiser=True).refuse(leaking)


def test_a_reserved_clean_set_in_another_type_of_pixel_is_compared_all_the_same() -> None:
    case = tiny_case()
    leaking = dataclasses.replace(case, clean=as_float(suspects(case).subset(np.arange(20))))
    with pytest.raises(InputError, match="would be trained on images of the suspect set"):
        DataElixir(SHORT).refuse(leaking)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fit": {**FIT, "t_train_max": 149}}, "above what the denoiser is to be trained for"),
        ({"states": 4}, "more states to keep than steps"),
        ({"purification": {**ROUNDS, "steps": 151}}, "number of steps"),
        ({"architecture": "fast_resnt"}, "unknown architecture"),
        ({"detection": {"mode": "given", "targets": [0, 4]}, "detect_per_class": 10}, "no such class"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_a_denoiser_is_trained(
    values: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "fit_denoiser", lambda *_args, **_options: pytest.fail("a denoiser was trained"))
    monkeypatch.setattr(timing, "fit_denoiser", lambda *_args, **_options: pytest.fail("a denoiser was trained"))
    defense = DataElixir({**SHORT, **values})
    with pytest.raises(SettingsError, match=message):
        defense.run(tiny_case())
    with pytest.raises(SettingsError, match=message):
        defense.estimate(tiny_case(), Context())


def test_a_jump_beyond_needs_a_sampler_that_can_take_it() -> None:
    with pytest.raises(SettingsError, match="jump_beyond"):
        DataElixirSettings.build({"jump_beyond": True, "purification": {"sampler": "ddim"}})


@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small"])
def test_the_reverse_chain_takes_the_variance_of_the_settings_unless_the_denoiser_learned_its_own(
    tmp_path: Path, variance: Variance
) -> None:
    settings = DataElixirSettings.build({**SHORT, "denoiser": str(tmp_path / "d"), "variance": variance})
    cases: list[tuple[Variance, Variance]] = [
        ("fixed_small", variance),
        ("fixed_large", variance),
        ("learned_range", "learned_range"),
    ]
    for own, used in cases:
        made = tiny_denoiser(None, own)
        made.save(tmp_path / "d")
        assert dataelixir_denoiser.prepare_denoiser(tiny_case(), settings, Context()).variance == used
        shutil.rmtree(tmp_path / "d")


def test_the_variance_is_small_unless_the_papers_rule_decides() -> None:
    def used(count: int, preset: str | None = None, **values: Any) -> str:
        clean = ImageSet(np.zeros((count, 8, 8, 3), np.uint8), np.arange(count) % 10, 10)
        return DataElixirSettings.build(values, preset=preset).step_variance(clean if count else None)

    assert [used(count) for count in (0, 199, 200)] == ["fixed_large", "fixed_large", "fixed_small"]
    assert used(200, detection={"mode": "mad"}) == "fixed_large"
    assert used(20, detection={"mode": "excess"}) == used(0, detection={"mode": "all"}) == "fixed_small"
    assert used(200, variance="fixed_large") == used(200, "paper") == used(200, "parity") == "fixed_large"


def test_a_denoiser_of_unknown_origin_is_told(tmp_path: Path) -> None:
    tiny_denoiser(None).save(tmp_path / "foreign")
    (tmp_path / "foreign" / "card.json").unlink()
    settings = DataElixirSettings.build({**SHORT, "denoiser": str(tmp_path / "foreign")})
    denoiser = dataelixir_denoiser.prepare_denoiser(tiny_case(), settings, Context())
    facts, note = provenance(denoiser, settings.denoiser)
    assert facts["images_seen"] is None and note is not None and "not on record" in note
    assert refuse_seen(denoiser, suspects(tiny_case()), forced=False) is None


def test_a_denoiser_is_trained_as_deep_as_the_level_needs() -> None:
    settings = DataElixirSettings.build({"fit": {**FIT, "schedule": "cosine"}})
    fit = dataelixir_denoiser.fit_settings(settings)
    chain = Schedule("cosine", 1000)
    assert fit.t_train_max == settings.purification.level.resolve(chain)
    assert chain.noise_std(fit.t_train_max) == pytest.approx(CHAIN.noise_std(150), rel=0.01)
    linear = DataElixirSettings.build({"fit": FIT, "jump_beyond": True})
    assert dataelixir_denoiser.fit_settings(linear).t_train_max == 151
    own = DataElixirSettings.build({"fit": {**FIT, "t_train_max": 700}})
    assert dataelixir_denoiser.fit_settings(own).t_train_max == 700


# presets, estimate, writing


def test_presets_say_what_they_promise() -> None:
    paper = DataElixirSettings.build(preset="paper")
    assert paper.slots == 51 and paper.threshold == 5 and paper.purification.steps is None and not paper.rebalance
    images = suspects(tiny_case())
    nfe = {}
    for name in (None, *DataElixirSettings.presets):
        settings = DataElixirSettings.build(preset=name)
        nfe[name] = plan_round(Counting(), settings, images).nfe * settings.purification.rounds
    assert nfe["paper"] == 750 and nfe["parity"] == 755 and 8 * nfe[None] <= 750
    parity = DataElixirSettings.build(preset="parity")
    assert (parity.quantise, parity.jump_beyond, parity.selection.ssim) == ("truncate", True, "vol3d")
    assert parity.detection.side == "both" and parity.detection.min_effect == 0 and parity.detection.smoothing == 0
    assert parity.purification.level.dump() == {"sigma": None, **LEVEL}


def test_every_parameter_can_be_set_by_name() -> None:
    settings = DataElixirSettings.build(
        {"purification": {"rounds": 3}, "states": 4, "threshold": 2, "fine_tune_lr": 0.1, "selection": {"weight": 1}}
    )
    assert (settings.slots, settings.purification.steps, settings.selection.quantile) == (13, 10, 0.8)


@pytest.mark.usefixtures("brief_measurements")
def test_the_estimate_counts_what_the_run_would_cost() -> None:
    defense = DataElixir(SHORT, detect_per_class=10)
    found = defense.estimate(tiny_case(), Context())
    counts = suspects(tiny_case()).class_counts()
    assert found["images"] == 40 + counts.max() - 10 and found["images_at_most"] == 96
    assert found["nfe_per_image"] == 6 and found["nfe_total"] == 6 * found["images"]
    assert found["disk_bytes"] == found["images"] * 4 * 192 and found["disk_bytes_at_most"] == 96 * 4 * 192
    assert all(value >= 0 for value in found["seconds"].values())
    assert 0 < found["seconds_total"] < found["seconds_at_most"]
    lacking = dataclasses.replace(tiny_case(), clean=None)
    with pytest.raises(MissingNeedError):
        defense.estimate(lacking, Context())


def test_changed_images_and_labels_are_written_as_files(tmp_path: Path) -> None:
    case = tiny_case()
    outcome = run(case, detection=TARGET)
    changed = int(np.count_nonzero(outcome.flagged))
    ImageFolder().write(case, outcome, Evaluation(), tmp_path, "dataelixir")
    rows = (tmp_path / "changes.csv").read_text().splitlines()[1:]
    assert 0 < len(rows) <= changed and len(list(tmp_path.glob("*/*.png"))) == len(rows)
    assert all(re.search(r",(True|False),\S+\.png$", row) for row in rows)

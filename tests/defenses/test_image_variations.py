"""The defense as a whole, on generators that are formulas."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from elixir_plugin.core.case import Case
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.outcome import Outcome, same_outcome
from elixir_plugin.core.pixels import as_float, rms_changes
from elixir_plugin.defenses.image_variations.defense import ImageVariations
from elixir_plugin.defenses.image_variations.generator import LoadedGenerator
from elixir_plugin.defenses.image_variations.settings import ImageVariationsSettings
from elixir_plugin.defenses.image_variations.variations import (
    CHUNK,
    VariationGenerator,
    Variations,
    blank,
    make_variations,
    transfer_colour,
)
from elixir_plugin.diffusion.denoisers.denoiser import UNetDenoiser, hexadecimal
from elixir_plugin.diffusion.denoisers.unet import Architecture, build_unet
from elixir_plugin.diffusion.fit import timing
from elixir_plugin.diffusion.generators.base import ImageGenerator
from elixir_plugin.diffusion.schedule import Schedule
from elixir_plugin.errors import InputError, MissingNeedError, PluginError, RunError, SettingsError
from elixir_plugin.evaluation.measure import execute
from elixir_plugin.runs.estimate import estimate_run
from elixir_plugin.runs.run import run_defense
from elixir_plugin.runs.spec import RunSpec
from elixir_plugin.testing.defenses import tiny_case

SHORT: dict[str, Any] = {"architecture": "fast_resnet", "recipe": {"epochs": 1, "batch_size": 32}}
PLAIN: dict[str, Any] = {**SHORT, "color_transfer": False}


class Interrupted(Exception):
    """Stands for a kill."""


class Noisy:
    """Adds noise that its seed decides; notes what it was asked for."""

    def __init__(self, last: int | None = None, pause: float = 0.0, log: Path | None = None) -> None:
        self.seeds: list[int] = []
        self.last, self.pause, self.log = last, pause, log

    def vary(self, images: Tensor, seeds: Tensor) -> Tensor:
        if self.last is not None and len(self.seeds) >= self.last:
            raise Interrupted
        assert images.dtype == torch.uint8 and images.shape[1] == 3 and seeds.shape == (len(images),)
        self.seeds += seeds.tolist()
        if self.log is not None:
            with self.log.open("ab", buffering=0) as file:
                file.write(b"".join(f"{seed}\n".encode() for seed in seeds.tolist()))
        time.sleep(self.pause)
        return torch.stack([self._one(image, int(seed)) for image, seed in zip(images, seeds, strict=True)])

    def _one(self, image: Tensor, seed: int) -> Tensor:
        noise = np.random.default_rng(seed).normal(0, 20, image.shape)
        return torch.from_numpy(np.clip(np.rint(image.numpy() + noise), 0, 255).astype(np.uint8))

    def fingerprint(self) -> str:
        return "noisy"


class Blurred(Noisy):
    """Has a strength; beyond 0.35 nothing of the image is left."""

    strengths = (0.1, 0.9)

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__()
        self.strength = strength

    def with_strength(self, strength: float) -> Blurred:
        return Blurred(strength)

    def _one(self, image: Tensor, seed: int) -> Tensor:
        return super()._one(image if self.strength < 0.35 else torch.full_like(image, 128), seed)

    def fingerprint(self) -> str:
        return f"blurred-{self.strength}"


class Stubbed(ImageVariations):
    """With a generator handed in."""

    generator: ImageGenerator

    def refuse_no_generator(self, case: Case) -> None:
        pass

    def prepare_generator(self, case: Case, context: Context) -> LoadedGenerator:
        return LoadedGenerator("stub", self.generator, {"backend": "stub"})

    generator_to_time = prepare_generator


def stubbed(generator: ImageGenerator | None = None, **values: Any) -> Stubbed:
    defense = Stubbed({**SHORT, **values})
    defense.generator = generator or Noisy()
    return defense


def run(
    case: Case | None = None, generator: ImageGenerator | None = None, *, work: Path | None = None, **values: Any
) -> Outcome:
    return stubbed(generator, **values).run(case or tiny_case(), Context(seed=0, work_dir=work))


def suspects(case: Case | None = None) -> ImageSet:
    train = (case or tiny_case()).train
    assert train is not None
    return train


def made(images: ImageSet, folder: Path, generator: ImageGenerator | None = None, **values: Any) -> Variations:
    settings = ImageVariationsSettings.build({**PLAIN, **values})
    return make_variations(VariationGenerator(generator or Noisy(), settings, images, 5), folder, Context(), "test")


def pixels(found: Variations) -> np.ndarray[Any, Any]:
    return found.images.read(slice(None))


# variations


def test_every_image_has_its_k_variations_in_their_place(tmp_path: Path) -> None:
    images = suspects().subset(np.arange(7))
    generator = Noisy()
    found = made(images, tmp_path, generator, num_variations=3)
    assert found.images.labels.tolist() == np.repeat(images.labels, 3).tolist()
    assert len(set(generator.seeds)) == len(generator.seeds) == 21
    rows = pixels(found).reshape(7, 3, 8, 8, 3).astype(int)
    for i in range(7):
        errors = [np.abs(rows[i] - other.astype(int)).mean() for other in images.read(slice(None))]
        same = [n for n in range(7) if images.labels[n] == images.labels[i]]
        assert int(np.argmin(errors)) in same and errors[i] == min(errors)
    assert (rows[:, 0] != rows[:, 1]).any((1, 2, 3)).all()


@pytest.mark.parametrize("batch", [1, 5])
def test_variations_do_not_depend_on_batch_or_order(tmp_path: Path, batch: int) -> None:
    images = suspects().subset(np.arange(40))
    whole = pixels(made(images, tmp_path / "whole", num_variations=2)).reshape(40, 2, 8, 8, 3)
    order = np.random.default_rng(1).permutation(40)[:25]
    other = made(images.subset(order), tmp_path / "other", num_variations=2, gen_batch_size=batch)
    assert (pixels(other).reshape(25, 2, 8, 8, 3) == whole[order]).all()


def test_the_first_variations_stay_when_more_are_asked_for(tmp_path: Path) -> None:
    images = suspects().subset(np.arange(5))
    one, two = (pixels(made(images, tmp_path / str(k), num_variations=k)) for k in (1, 2))
    assert (two[::2] == one).all()


def test_an_interrupted_run_goes_on_and_makes_nothing_twice(tmp_path: Path) -> None:
    images = suspects()
    whole = Noisy()
    expected = pixels(made(images, tmp_path / "whole", whole))
    first, second, third = Noisy(last=3 * CHUNK), Noisy(), Noisy()
    with pytest.raises(Interrupted):
        made(images, tmp_path / "broken", first)
    assert (pixels(made(images, tmp_path / "broken", second)) == expected).all()
    assert first.seeds + second.seeds == whole.seeds and len(first.seeds) == 3 * CHUNK
    made(images, tmp_path / "broken", third)
    assert third.seeds == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_twice_it_ends_as_if_it_was_not(tmp_path: Path) -> None:
    images, log = suspects(), tmp_path / "log"
    expected = pixels(made(images, tmp_path / "whole"))

    def calls() -> list[str]:
        return log.read_text().split() if log.exists() else []

    for goal in (CHUNK, 3 * CHUNK):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if not pid:
            try:
                made(images, tmp_path / "broken", Noisy(pause=0.05, log=log), gen_batch_size=8)
            finally:
                os._exit(0)
        deadline = time.monotonic() + 120
        while len(calls()) < goal and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    assert (pixels(made(images, tmp_path / "broken", Noisy(log=log))) == expected).all()
    assert len(set(calls())) == len(images)
    assert len(calls()) <= len(images) + 2 * CHUNK  # a kill loses the chunk under way


def test_variations_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    images = suspects().subset(np.arange(5))
    made(images, tmp_path)
    with pytest.raises(RunError, match="other settings"):
        made(images, tmp_path, color_transfer=True)


class Failing(Noisy):
    """Gives black images under every seed it sees first, for some images."""

    def vary(self, images: Tensor, seeds: Tensor) -> Tensor:
        first = len(self.seeds) == 0
        out = super().vary(images, seeds)
        out[1::4] = 0 if first else out[1::4]
        return out


def test_blank_variations_are_made_again_and_counted(tmp_path: Path) -> None:
    images = suspects().subset(np.arange(8))
    generator = Failing()
    found = made(images, tmp_path, generator)
    assert found.counts == {"regenerated": 2, "blank": 0}
    assert not blank(torch.from_numpy(pixels(found)).permute(0, 3, 1, 2)).any()
    assert len(set(generator.seeds)) == 10
    assert made(images, tmp_path).counts == found.counts  # nothing is made, the counts are those of the store


def test_a_generator_that_gives_nothing_else_is_told(tmp_path: Path) -> None:
    class Black(Noisy):
        def _one(self, image: Tensor, seed: int) -> Tensor:
            return torch.zeros_like(image)

    images = suspects().subset(np.arange(8))
    assert made(images, tmp_path / "a", Black()).counts == {"regenerated": 24, "blank": 8}
    flat = images.replace(images=np.full((8, 8, 8, 3), 9, np.uint8))
    assert made(flat, tmp_path / "b", Black()).counts == {"regenerated": 0, "blank": 0}  # as blank as its image
    outcome = run(generator=Black())
    assert any("288 blank variations were made again; 96 are blank still" in note for note in outcome.notes)


@pytest.mark.parametrize(
    "broken",
    [
        lambda images: images[:-1],
        lambda images: images.float(),
        lambda images: images[:, :1],
        lambda images: images.numpy(),
    ],
)
def test_a_generator_that_breaks_the_rules_is_refused(tmp_path: Path, broken: Any) -> None:
    class Broken(Noisy):
        def vary(self, images: Tensor, seeds: Tensor) -> Tensor:
            result: Tensor = broken(images)
            return result

    with pytest.raises(PluginError, match="broke the rules"):
        made(suspects(), tmp_path, Broken())


def test_sizes_and_channels_are_those_of_the_images(tmp_path: Path) -> None:
    class Large(Noisy):
        def _one(self, image: Tensor, seed: int) -> Tensor:
            return super()._one(image, seed).repeat_interleave(4, 1).repeat_interleave(4, 2)

    images = suspects().subset(np.arange(4))
    small = pixels(made(images, tmp_path / "same"))
    reduced = pixels(made(images, tmp_path / "reduced", Large()))
    assert reduced.shape == small.shape and np.abs(reduced.astype(int) - small).mean() < 10
    assert pixels(made(images, tmp_path / "kept", store_size=32)).shape == (4, 32, 32, 3)
    grey = images.replace(images=images.read(slice(None))[..., :1].copy())
    found = pixels(made(grey, tmp_path / "grey"))
    assert found.shape == (4, 8, 8, 1)
    faint = images.replace(images=(images.read(slice(None)) / np.float32(255)).astype(np.float32))
    assert (pixels(made(faint, tmp_path / "float")) == small).all()


# colour


def test_colour_transfer_matches_the_moments() -> None:
    rng = np.random.default_rng(0)
    variations = torch.from_numpy(rng.integers(80, 200, (3, 3, 32, 32), np.uint8))
    images = torch.from_numpy(rng.integers(60, 190, (3, 3, 8, 8), np.uint8))
    images[:, 1] //= 2
    moved = transfer_colour(variations, images).double()
    assert (moved.mean((2, 3)) - images.double().mean((2, 3))).abs().max() < 1.5
    assert (moved.std((2, 3), correction=0) - images.double().std((2, 3), correction=0)).abs().max() < 1.5
    assert (transfer_colour(images, images).int() - images.int()).abs().max() <= 1


def test_a_constant_channel_becomes_the_constant_mean() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8), np.uint8))
    moved = transfer_colour(torch.full((1, 3, 4, 4), 7, dtype=torch.uint8), images)
    assert (moved.double() - images.double().mean((2, 3), keepdim=True)).abs().max() <= 0.5


# teacher and student


def test_the_student_never_sees_a_suspect_pixel_unless_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Canary: every suspect image carries grey level 77 somewhere, no variation does."""
    marked = suspects().read(slice(None))
    marked[marked == 77] = 78
    marked[:, 4, 4] = 77
    case = dataclasses.replace(tiny_case(), train=suspects().replace(images=marked), truth=None)

    class Clean(Noisy):
        def _one(self, image: Tensor, seed: int) -> Tensor:
            out = super()._one(image, seed)
            out[out == 77] = 78
            return out

    seen: dict[int, bool] = {}
    forward = Classifier.forward

    def spy(self: Classifier, images: Tensor) -> Tensor:
        levels = (images * 255).round()
        seen[id(self)] = seen.get(id(self), False) or bool((levels == 77).any())
        return forward(self, images)

    monkeypatch.setattr(Classifier, "forward", spy)
    for values, sees in (({}, False), ({"mixing": 0.1}, True), ({"student_data": "originals"}, True)):
        seen.clear()
        outcome = run(case, Clean(), teacher="train", **{**PLAIN, **values})
        assert outcome.model is not None and outcome.undefended is not None
        assert seen[id(outcome.undefended)] and seen[id(outcome.model)] == sees


def test_the_cases_model_is_teacher_and_stays_as_it_was() -> None:
    case = tiny_case()
    assert case.model is not None
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    outcome = run(case)
    assert outcome.undefended is not None and not any("teacher" in name for name in outcome.curves)
    for model in (case.model, outcome.undefended):
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(each.grad is None for each in model.parameters())
    assert any("teacher_loss" in name for name in run(case, teacher="train").curves)
    lacking = dataclasses.replace(case, model=None)
    assert any("teacher_loss" in name for name in run(lacking).curves)
    with pytest.raises(MissingNeedError, match="teacher"):
        run(lacking, teacher="case")


def test_losses_are_those_that_are_asked_for() -> None:
    case = tiny_case()
    assert {"student_loss", "student_kd", "student_ce"} <= run(case).curves.keys()
    plain = run(case, distill=False)
    assert "student_kd" not in plain.curves and plain.curves["student_loss"] != run(case).curves["student_loss"]
    for values in ({"ce_temperature": 1}, {"alpha": 1}, {"temperature": 2}, {"drop_disagreeing": True}):
        assert run(case, **values).curves["student_loss"] != run(case).curves["student_loss"], values


def test_answers_looked_up_beforehand_change_nothing() -> None:
    case = tiny_case()
    recipe = {"epochs": 2, "batch_size": 32}
    found, asked = (run(case, cache_logits=cached, recipe=recipe).curves["student_loss"] for cached in (True, False))
    np.testing.assert_allclose(found, asked, rtol=0, atol=1e-6)
    assert run(case, augment_teacher=False, recipe=recipe).curves["student_loss"] != found


def test_larger_variations_have_a_student_of_their_size() -> None:
    outcome = run(store_size=16, teacher="train")
    assert outcome.model is not None and outcome.model.input_size == 16 and outcome.undefended is not None
    assert outcome.train is None and any("another size" in note for note in outcome.notes)
    assert outcome.undefended.input_size == 8
    assert run(store_size=8).train is not None
    with pytest.raises(SettingsError, match="smaller"):
        ImageVariations(SHORT, store_size=8).run(tiny_case(size=12))


# outcome


def test_one_variation_each_is_a_sanitised_set_and_several_are_not(tmp_path: Path) -> None:
    case = tiny_case()
    one = run(case, work=tmp_path / "work")
    assert one.train is not None and (one.train.labels == suspects(case).labels).all()
    assert (one.train.ids == suspects(case).ids).all()
    stored = np.load(tmp_path / "work" / "image_variations" / "images" / "data.npy")
    assert (one.train.read(slice(None)) == stored).all()
    assert one.scores is not None and one.scores.shape == (96,) and 0 <= one.scores.min() <= one.scores.max() <= 1
    two = run(case, num_variations=2)
    assert two.train is None and any("variations=FOLDER" in note for note in two.notes)
    kept = run(case, num_variations=2, variations=str(tmp_path / "kept"))
    assert any("row i·2 + k" in note for note in kept.notes)
    assert np.load(tmp_path / "kept" / "images" / "data.npy").shape == (192, 8, 8, 3)


def test_the_sanitised_set_of_a_float_set_is_in_float(tmp_path: Path) -> None:
    case = tiny_case()
    outcome = run(dataclasses.replace(case, train=as_float(suspects(case))), work=tmp_path)
    assert outcome.train is not None and outcome.train.images.dtype == np.float32
    stored = np.load(tmp_path / "image_variations" / "images" / "data.npy")
    assert (outcome.train.read(slice(None)) == stored / np.float32(255)).all()
    assert 0.01 < rms_changes(as_float(suspects(case)), outcome.train).max() < 0.5


def test_kept_variations_serve_other_students(tmp_path: Path) -> None:
    first, second = Noisy(), Noisy()
    run(generator=first, variations=str(tmp_path / "kept"))
    run(generator=second, variations=str(tmp_path / "kept"), alpha=1)
    assert len(first.seeds) == 96 and second.seeds == []


def test_with_and_without_a_work_folder_the_outcome_is_the_same(tmp_path: Path) -> None:
    generator = Noisy()
    first = run(work=tmp_path, teacher="train")
    assert same_outcome(first, run(teacher="train")) == []
    assert same_outcome(first, run(work=tmp_path, generator=generator, teacher="train")) == []
    assert generator.seeds == []


def test_classes_are_compared_in_the_teachers_eyes() -> None:
    rows = run().tables["classes"]
    assert [row["class"] for row in rows] == [0, 1, 2, 3]
    assert sum(row["samples"] for row in rows) == 96
    assert all(0 <= row[key] <= 1 for row in rows for key in ("agreement", "relabelled"))


def test_the_report_shows_the_search_the_classes_and_the_training() -> None:
    outcome = run()
    titles = [panel.title for panel in stubbed().panels(outcome)]
    assert titles == ["Variations in the teacher's eyes", "Student"]  # the teacher was not trained here
    outcome.curves |= {"strength": [0.2, 0.4], "strength_agreement": [0.9, 0.6]}
    assert stubbed().panels(outcome)[0].title == "Search of the strength"


def test_the_teacher_stands_in_as_before() -> None:
    case = dataclasses.replace(tiny_case(), model=None)
    _, evaluation = execute(stubbed(), case, Context())
    assert evaluation.before is not None and evaluation.after is not None and evaluation.der is not None


# strength


def test_the_strength_is_the_highest_that_the_teacher_bears(monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher tells stripes from grey, so that agreement falls where nothing of the image is left."""
    case = tiny_case()
    assert case.clean is not None

    def logits(self: Classifier, images: ImageSet, batch_size: int | None = None) -> np.ndarray[Any, Any]:
        striped = images.read(slice(None)).std((1, 2, 3)) > 25  # noise alone has 20
        return np.eye(4, dtype=np.float32)[striped.astype(int)]

    monkeypatch.setattr(Classifier, "predict", logits)
    outcome = run(case, Blurred(), color_transfer=False)
    generator = outcome.tables["generator"]
    assert (generator["strength"], generator["strength_chosen"]) == (0.3, "searched")
    assert outcome.curves["strength"] == [0.1, 0.2, 0.3, 0.4]
    assert outcome.curves["strength_agreement"][:3] == [1, 1, 1] and outcome.curves["strength_agreement"][3] == 0
    assert generator["fingerprint"] == "blurred-0.3"
    lost = run(case, Blurred(), color_transfer=False, search={"candidates": (0.5, 0.6)})
    assert lost.tables["generator"]["strength"] == 0.5 and any("least that was tried" in note for note in lost.notes)
    given = run(case, Blurred(), color_transfer=False, strength=0.2)
    assert given.tables["generator"]["strength_chosen"] == "given" and "strength" not in given.curves


def test_without_a_clean_set_the_default_is_used_and_said() -> None:
    case = dataclasses.replace(tiny_case(), clean=None)
    outcome = run(case, Blurred())
    assert outcome.tables["generator"]["strength"] == 0.5
    assert any("0.5 is the default, not chosen" in note for note in outcome.notes)


def test_a_search_that_ends_where_the_denoiser_does_is_said() -> None:
    class Shallow(Blurred):
        strengths = (0.0, 0.2)

        def with_strength(self, strength: float) -> Blurred:
            return Shallow(strength)

    outcome = run(generator=Shallow(), search={"agreement": 0.0})
    assert outcome.curves["strength"] == [0.1, 0.2]
    assert any("as far as this denoiser was trained" in note for note in outcome.notes)


def test_a_generator_without_strength_needs_no_search() -> None:
    assert "strength" not in run().tables["generator"]


# the engine's own generator


def tiny_denoiser(folder: Path, seen: ImageSet) -> Path:
    network = build_unet(Architecture((8, 8), 1, (False, False), {}), 8)
    card = {"origin": "elsewhere", "images": {"count": len(seen), "content": hexadecimal(seen)}}
    UNetDenoiser(network, Schedule("linear", 1000), variance="fixed_small", card=card).save(folder)
    return folder


def test_a_denoiser_that_has_seen_the_suspect_set_is_refused_unless_forced(tmp_path: Path) -> None:
    case = tiny_case()
    folder = tiny_denoiser(tmp_path / "seen", suspects(case).subset(np.arange(7)))
    values = {**SHORT, "denoiser": str(folder), "num_inference_steps": 4, "strength": 0.25}
    with pytest.raises(InputError, match="trained on images of the suspect set"):
        ImageVariations(values).run(case)
    outcome = ImageVariations(values, force_denoiser=True).run(case)
    assert any("paint triggers back in" in note for note in outcome.notes)
    assert outcome.tables["generator"]["nfe_per_variation"] == 1 and outcome.tables["generator"]["t0"] == 250


def test_a_case_without_generator_is_refused_before_any_work() -> None:
    with pytest.raises(MissingNeedError, match="reserved clean set"):
        ImageVariations(SHORT, backend="sdedit").run(dataclasses.replace(tiny_case(), clean=None))


def test_settings_that_cannot_work_are_refused_before_any_work() -> None:
    case = tiny_case()
    shallow: dict[str, Any] = {**SHORT, "backend": "sdedit", "fit": {"t_train_max": 10}}
    with pytest.raises(SettingsError, match="above what the denoiser is to be trained for"):
        ImageVariations(shallow, strength=0.3).refuse(case)
    for strength in ("auto", 0.01):
        ImageVariations(shallow, strength=strength).refuse(case)
    with pytest.raises(SettingsError, match="unknown architecture") as refusal:
        stubbed(architecture="fast_resnt").refuse(case)
    with pytest.raises(SettingsError) as built:
        Classifier.build("fast_resnt", 4)
    assert str(refusal.value) == str(built.value)
    assert case.train is not None
    grey = Case(train=case.train.replace(images=case.train.read(slice(None))[..., :1]))
    with pytest.raises(SettingsError, match="take 3 channels"):
        stubbed(architecture="resnet18").refuse(grey)
    stubbed(architecture="resnet18").refuse(case)


def test_all_that_decides_a_models_answers_is_in_its_fingerprint() -> None:
    def made(architecture: str = "fast_resnet", **options: Any) -> Classifier:
        return Classifier.build(architecture, 4, seed=0, **options)

    plain = made()
    others = [made(mean=(0.5,)), made(std=(0.5,)), made(input_size=16), made("small_resnet"), made().fresh(1)]
    others.append(Classifier(plain.module, 4))  # without the name of its architecture
    assert len({each.fingerprint() for each in (plain, *others)}) == 7
    assert made().fingerprint() == plain.fingerprint()


# preview, presets


def test_a_preview_shows_the_variations_of_the_run() -> None:
    case, context = tiny_case(), Context(seed=0)
    rows = stubbed(num_variations=2, color_transfer=False).preview(case, context, 6)
    assert len(rows) == 6 and all(row.shape == (3, 3, 8, 8) for row in rows)
    (first, *_) = stubbed(color_transfer=False).preview(case, context, 6)
    outcome = run(case, color_transfer=False)
    assert outcome.train is not None
    shown = (first * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    at = np.flatnonzero((suspects(case).read(slice(None)) == shown[0]).all((1, 2, 3)))
    assert (outcome.train.read(at)[0] == shown[1]).all()
    candidates = stubbed(Blurred(), search={"candidates": (0.1, 0.4)}).preview(case, context, 2)
    assert all(row.shape == (3, 3, 8, 8) for row in candidates)


@pytest.mark.usefixtures("brief_measurements", "no_figures")
def test_the_preview_is_written_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = tiny_case()
    assert case.train is not None and case.clean is not None
    sets = {"train": case.train, "clean": case.clean}
    arrays = {f"x_{name}": each.read(slice(None)) for name, each in sets.items()}
    arrays |= {f"y_{name}": each.labels for name, each in sets.items()}
    np.savez(tmp_path / "case.npz", **arrays)
    settings = {
        **SHORT,
        "fit": {"size": "tiny", "iterations": 1, "batch_size": 2},
        "num_inference_steps": 2,
        "strength": 0.2,
    }
    spec = RunSpec.build(
        {
            "defense": "image_variations",
            "source": {"adapter": "arrays", "path": str(tmp_path / "case.npz")},
            "settings": settings,
            "out": str(tmp_path / "run"),
        }
    )
    monkeypatch.setattr(ImageVariations, "defend", lambda *_: (_ for _ in ()).throw(Interrupted))
    shown: list[Path] = []
    with pytest.raises(Interrupted):
        run_defense(spec, preview=4, on_preview=shown.append)
    (path,) = shown
    with Image.open(path) as picture:
        assert picture.width > picture.height / 4
    assert (tmp_path / "run" / "work" / "image-variations-denoiser").is_dir()  # a run that follows takes it up
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    stage, decided = (each for each in events if each["event"] == "stage")
    assert (stage["stage"], decided["stage"]) == ("preview", "mirroring")
    assert estimate_run(spec)["seconds"]["generator"] == 0
    with pytest.raises(RunError, match="belongs to another run"):
        estimate_run(spec.model_copy(update={"seed": 1}))
    longer = itertools.count(1.0)  # a busy machine may take less time for more work
    monkeypatch.setattr(timing, "seconds_of", lambda work: (work(), next(longer))[1])
    assert estimate_run(spec.model_copy(update={"seed": 1}), force=True)["seconds"]["generator"] > 0
    monkeypatch.undo()
    report = run_defense(spec).report
    assert (
        report["attempts"] == 2 and report["outcome"]["timings"]["total"] > stage["seconds"]
    )  # with what the preview trained


def test_presets_say_what_they_promise() -> None:
    paper = ImageVariationsSettings.build(preset="paper")
    assert (paper.backend, paper.guidance_scale, paper.gen_size, paper.num_inference_steps) == (
        "versatile",
        7.5,
        512,
        50,
    )
    assert (paper.temperature, paper.alpha, paper.hard_temperature, paper.num_variations) == (10, 0.5, 10, 1)
    recipe = paper.recipe.resolved()
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.batch_size) == ("adam", 1e-3, 0, 128)
    assert (recipe.epochs, recipe.milestones, recipe.gamma, recipe.augmentation.flip) == (100, (30, 50), 0.1, "auto")
    assert not (paper.normalize or paper.mixing or paper.drop_disagreeing) and paper.color_transfer
    short = ImageVariationsSettings.build({"recipe": {"epochs": 12}}).recipe.resolved()
    assert short.milestones == (4, 6)
    shortest = ImageVariationsSettings.build({"recipe": {"epochs": 1}}).recipe.resolved()
    assert shortest.milestones == (1, 1)  # at 0 the rate would be a hundredth from the start
    own = ImageVariationsSettings.build({"recipe": {"milestones": (7,)}}).recipe.resolved()
    assert own.milestones == (7,)
    assert ImageVariationsSettings(ce_temperature=1).hard_temperature == 1


def test_contradictions_are_refused() -> None:
    with pytest.raises(SettingsError, match="mixing"):
        ImageVariationsSettings.build({"mixing": 0.5, "student_data": "originals"})
    with pytest.raises(SettingsError, match="ascend"):
        ImageVariationsSettings.build({"search": {"candidates": (0.3, 0.2)}})

"""ECLIPSE: what it hands back, its ablations, what it refuses (eclipse.md §8, §9.2)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elixir_plugin.core.augmentation import Augmentation
from elixir_plugin.core.case import Case
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.outcome import Outcome
from elixir_plugin.defenses.eclipse.defense import Eclipse
from elixir_plugin.defenses.eclipse.settings import EclipseSettings
from elixir_plugin.diffusion.denoisers.gaussian import GaussianDenoiser
from elixir_plugin.diffusion.fit import choose
from elixir_plugin.diffusion.schedule import Schedule
from elixir_plugin.errors import InputError, SettingsError
from elixir_plugin.testing.defenses import tiny_case

LEVEL = {"steps": 25, "of": 1000}
FIT = {"size": "tiny", "length": 1000, "t_train_max": 40, "iterations": 3, "batch_size": 4, "dropout": 0.0}
SHORT: dict[str, Any] = {"fit": FIT, "purification": {"level": LEVEL, "steps": 2}}


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand a formula in for the trained network: purification without training."""
    made = GaussianDenoiser(Schedule("cosine", 1000), mean=0.0, std=0.3)
    monkeypatch.setattr(choose, "fit_denoiser", lambda *_args, **_options: made)


def run(case: Case | None = None, seed: int = 0, work: Path | None = None, **values: Any) -> Outcome:
    return Eclipse({**SHORT, **values}).run(case or tiny_case(), Context(seed=seed, work_dir=work))


@pytest.mark.usefixtures("formula")
def test_the_purified_set_has_the_same_samples_labels_and_type() -> None:
    case = tiny_case()
    assert case.train is not None
    before = case.train.fingerprint()
    outcome = run(case)
    assert outcome.train is not None and case.train.fingerprint() == before
    assert outcome.train.fingerprint() != before
    assert outcome.train.images.dtype == np.uint8 and outcome.train.ids.tolist() == case.train.ids.tolist()
    assert outcome.train.labels.tolist() == case.train.labels.tolist()
    assert outcome.tables["t_star"] == 25 and outcome.tables["nfe_per_image"] == 2
    assert outcome.noise_level == pytest.approx(0.02498, abs=2e-5)
    assert outcome.augmentation == Augmentation(grayscale=0.4, noise=0.05)


@pytest.mark.usefixtures("formula")
def test_float_images_stay_float() -> None:
    case = tiny_case()
    assert case.train is not None
    faint = case.train.replace(images=(case.train.read(slice(None)) / np.float32(255)).astype(np.float32))
    outcome = run(dataclasses.replace(case, train=faint))
    assert outcome.train is not None and outcome.train.images.dtype == np.float32


@pytest.mark.usefixtures("formula")
def test_rms_change_is_that_of_the_pixels() -> None:
    case = tiny_case()
    assert case.train is not None
    outcome = run(case)
    assert outcome.train is not None
    gap = case.train.read(slice(None)).astype(float) - outcome.train.read(slice(None)).astype(float)
    assert outcome.tables["rms_change"] == pytest.approx(np.sqrt((gap**2).mean()) / 255)


def test_without_module_a_the_set_is_untouched_and_no_denoiser_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "fit_denoiser", lambda *_args, **_options: pytest.fail("a denoiser was trained"))
    case = tiny_case()
    outcome = run(case, purify=False)
    assert outcome.train is not None and case.train is not None
    assert outcome.train.fingerprint() == case.train.fingerprint()
    assert outcome.noise_level == 0 and outcome.augmentation is not None


@pytest.mark.usefixtures("formula")
def test_static_mode_draws_b_and_c_once_into_the_set() -> None:
    online, static, again = run(), run(mode="static"), run(mode="static")
    assert static.augmentation is None and static.train is not None
    assert static.static_augmentation == online.augmentation and online.static_augmentation is None
    assert online.train is not None and again.train is not None
    assert static.train.fingerprint() == again.train.fingerprint() != online.train.fingerprint()
    pixels = static.train.read(slice(None)).astype(float) - online.train.read(slice(None)).astype(float)
    assert 0.03 < pixels.std() / 255 < 0.12


@pytest.mark.usefixtures("formula")
def test_static_mode_without_b_and_c_changes_nothing() -> None:
    plain, static = run(), run(mode="static", gray_p=0, noise_std=0)
    assert plain.train is not None and static.train is not None
    assert plain.train.fingerprint() == static.train.fingerprint()


@pytest.mark.usefixtures("formula")
def test_one_channel_makes_module_b_idle_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    made = GaussianDenoiser(Schedule("cosine", 1000), mean=0.0, std=0.3, channels=1)
    monkeypatch.setattr(choose, "fit_denoiser", lambda *_args, **_options: made)
    case = tiny_case()
    assert case.train is not None and case.clean is not None

    def grey(images: ImageSet) -> ImageSet:
        return images.replace(images=images.read(slice(None))[..., :1])

    outcome = run(Case(train=grey(case.train), clean=grey(case.clean)))
    assert any("module B" in note for note in outcome.notes)


def test_the_denoiser_learns_from_a_sparse_draw_of_the_clean_set(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ImageSet] = []

    def note(clean: ImageSet, *_args: Any, name: str) -> GaussianDenoiser:
        seen.append(clean)
        assert name == "denoiser"  # its random draws go by this name
        return GaussianDenoiser(Schedule("cosine", 1000), mean=0.0, std=0.3)

    monkeypatch.setattr(choose, "fit_denoiser", note)
    for seed in (0, 0, 1):
        run(seed=seed, sparse=10)
    run(sparse=1000)
    assert [len(each) for each in seen] == [10, 10, 10, 48]
    assert seen[0].ids.tolist() == seen[1].ids.tolist() != seen[2].ids.tolist()


def overlapping() -> Case:
    """Return a case whose reserved clean set holds 20 suspect images."""
    case = tiny_case()
    assert case.train is not None
    return dataclasses.replace(case, clean=case.train.subset(np.arange(20)))


def test_clean_images_that_are_suspects_are_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(choose, "fit_denoiser", lambda *_args, **_options: pytest.fail("a denoiser was trained"))
        with pytest.raises(InputError, match="would be trained on images of the suspect set") as refusal:
            run(overlapping())
        assert "20 of 96" in str(refusal.value) and "clean_from=test" in str(refusal.value)
        run(overlapping(), purify=False)
    forced = run(overlapping(), force_denoiser=True)
    assert any("paint triggers back in" in note for note in forced.notes)


def test_a_denoiser_that_has_seen_the_suspect_set_is_refused_unless_forced(tmp_path: Path) -> None:
    run(overlapping(), work=tmp_path, force_denoiser=True)
    with pytest.raises(InputError, match="was trained on images of the suspect set"):
        run(denoiser=str(tmp_path / "denoiser"))
    forced = run(denoiser=str(tmp_path / "denoiser"), force_denoiser=True)
    assert forced.tables["denoiser"]["images_seen"] == 20


def test_the_report_says_what_the_denoiser_has_seen(tmp_path: Path) -> None:
    facts = run(work=tmp_path, sparse=10).tables["denoiser"]
    assert (facts["source"], facts["images_seen"]) == ("trained on the reserved clean set", 10)
    (tmp_path / "denoiser" / "card.json").unlink()
    foreign = run(denoiser=str(tmp_path / "denoiser"))
    assert foreign.tables["denoiser"]["images_seen"] is None
    assert any("not on record" in note for note in foreign.notes)


@pytest.mark.usefixtures("formula")
def test_clean_labels_are_not_needed() -> None:
    case = tiny_case()
    assert case.clean is not None and case.train is not None
    unlabelled = dataclasses.replace(case, clean=case.clean.replace(labels=np.zeros(len(case.clean), int)))
    first, second = run(case), run(unlabelled)
    assert first.train is not None and second.train is not None
    assert first.train.fingerprint() == second.train.fingerprint()


def test_a_scored_clean_set_is_refused() -> None:
    case = tiny_case()
    assert case.clean is not None
    with pytest.raises(InputError, match="overlaps the test set"):
        run(dataclasses.replace(case, test=case.clean.subset([3, 5])))


def test_a_level_above_the_trained_range_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "fit_denoiser", lambda *_args, **_options: pytest.fail("a denoiser was trained"))
    with pytest.raises(SettingsError, match="noise level above what the denoiser is to be trained for"):
        run(purification={"level": {"steps": 60, "of": 1000}, "steps": 2})


def test_a_chain_with_fewer_steps_than_wanted_takes_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default level is reached in 12 steps of the usual linear chain, and the default wants 25."""
    usual = GaussianDenoiser(Schedule("linear", 1000), mean=0.0, std=0.3)
    monkeypatch.setattr(choose, "find_denoiser", lambda *_args, **_options: usual)
    outcome = Eclipse(denoiser="somebody/usual").run(tiny_case())
    assert outcome.tables["t_star"] == outcome.tables["nfe_per_image"] == 12
    assert any("12 steps up to the noise level" in note and "not 25" in note for note in outcome.notes)
    short = Eclipse({**SHORT, "denoiser": "somebody/usual"}).run(tiny_case())
    assert not any("all are used" in note for note in short.notes)


def test_a_bare_index_is_refused() -> None:
    with pytest.raises(SettingsError, match="steps"):
        Eclipse(purification={"level": {"steps": 100}})


def test_presets_keep_the_papers_noise_level_whatever_the_chain() -> None:
    for name in EclipseSettings.presets:
        settings = EclipseSettings.build(preset=name)
        schedule = Schedule("cosine", settings.fit.length)
        assert 255 * schedule.noise_std(settings.purification.level.resolve(schedule)) == pytest.approx(6.37, abs=0.01)
        assert settings.fit.t_train_max is None or settings.purification.level.resolve(schedule) * 1.5 <= (
            settings.fit.t_train_max
        )


def test_a_trained_run_resumes_from_its_work_folder(tmp_path: Path) -> None:
    whole = run()
    first = run(work=tmp_path / "work")
    for name in ("denoiser", "purified"):
        assert (tmp_path / "work" / name).is_dir()
    trained = (tmp_path / "work" / "denoiser" / "card.json").stat().st_mtime_ns
    second = run(work=tmp_path / "work")
    assert (tmp_path / "work" / "denoiser" / "card.json").stat().st_mtime_ns == trained
    assert whole.train is not None and first.train is not None and second.train is not None
    assert whole.train.fingerprint() == first.train.fingerprint() == second.train.fingerprint()


def test_a_given_denoiser_is_used(tmp_path: Path) -> None:
    run(work=tmp_path)
    given, own = run(denoiser=str(tmp_path / "denoiser")), run()
    assert given.train is not None and own.train is not None
    assert given.train.fingerprint() == own.train.fingerprint()

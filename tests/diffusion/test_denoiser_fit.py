"""Training denoisers: what is drawn, averaged and kept, and that a killed run ends like one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.diffusion.denoisers import unet
from elixir_plugin.diffusion.denoisers.denoiser import UNetDenoiser, load_denoiser
from elixir_plugin.diffusion.denoisers.unet import SIZES, Architecture
from elixir_plugin.diffusion.fit import train as module
from elixir_plugin.diffusion.fit.ema import WeightAverage
from elixir_plugin.diffusion.fit.settings import FitSettings
from elixir_plugin.diffusion.fit.train import NoisyBatches, fit_denoiser, fit_into, state_file
from elixir_plugin.diffusion.plan import Purification, plan
from elixir_plugin.diffusion.schedule import NoiseLevel
from elixir_plugin.errors import InputError, RunError, SettingsError
from elixir_plugin.io.files import atomic_file
from elixir_plugin.training import checkpoint

TOY = Architecture((8, 16), 1, (False, True), {**SIZES["tiny"].options, "attention_head_dim": 8})
BASE = {"iterations": 5, "batch_size": 3, "dropout": 0.2}


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """``tiny`` is a toy here, and a block has two iterations."""
    monkeypatch.setattr(unet, "SIZES", {**SIZES, "tiny": TOY})
    monkeypatch.setattr(module, "BLOCK", 2)
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)


def images(n: int = 6, height: int = 8, width: int = 8, channels: int = 3, seed: int = 0) -> ImageSet:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, height, width, channels), np.uint8)
    return ImageSet(pixels, np.zeros(n, np.int64), 1)


def settings(**values: Any) -> FitSettings:
    return FitSettings.build({**BASE, **values}, preset="cpu")


def weights(denoiser: UNetDenoiser) -> dict[str, Tensor]:
    state: dict[str, Tensor] = denoiser.network.state_dict()
    return state


def same(first: UNetDenoiser, second: UNetDenoiser) -> bool:
    return all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# settings


def test_presets_are_those_of_the_specification() -> None:
    paper, fast, cpu = (FitSettings.build(preset=name) for name in ("paper", "fast", "cpu"))
    assert (paper.iterations, paper.batch_size, paper.lr, paper.ema_decay) == (250_000, 128, 1e-4, 0.9999)
    assert (paper.size, paper.length, paper.schedule, paper.dropout) == ("eclipse", 4000, "cosine", 0.3)
    assert (paper.ema_warmup, paper.precision, paper.trained_steps) == (False, "float32", 4000)
    assert fast.t_train_max == 200 and 12_000 <= fast.iterations <= 25_000 and fast.ema_decay <= 0.999
    assert (cpu.size, cpu.length, cpu.t_train_max, cpu.batch_size, cpu.iterations) == ("tiny", 1000, 40, 32, 2000)
    assert (cpu.lr, cpu.ema_decay, cpu.ema_warmup) == (4e-4, 0.995, True)
    assert paper.timestep_scale == 0.25


def test_a_range_beyond_the_chain_is_refused() -> None:
    with pytest.raises(SettingsError, match="settings refused") as caught:
        settings(length=100, t_train_max=101)
    assert "t_train_max" in str(caught.value)


# draws


def test_draws_are_uniform_over_images_and_trained_indices() -> None:
    source = NoisyBatches(images(5), settings(batch_size=4000, t_train_max=7), Context(), "d")
    batches = list(source.epoch(0))
    rows = torch.cat([batch.rows for batch in batches])
    indices = torch.cat([batch.indices for batch in batches])
    noise = torch.cat([batch.noise for batch in batches])
    assert set(rows.tolist()) == set(range(5)) and set(indices.tolist()) == set(range(7))
    assert abs(rows.bincount() / len(rows) - 1 / 5).max() < 0.02
    assert abs(indices.bincount() / len(rows) - 1 / 7).max() < 0.02
    assert abs(float(noise.mean())) < 0.005 and float(noise.std()) == pytest.approx(1, abs=0.005)
    assert batches[0].images.min() >= 0 and batches[0].images.max() <= 1
    assert torch.equal(
        (batches[0].images * 255).round().byte(),
        torch.from_numpy(images(5).read(slice(None)))[batches[0].rows].permute(0, 3, 1, 2),
    )


def test_blocks_are_pure_and_differ_and_the_last_may_be_short() -> None:
    source = NoisyBatches(images(), settings(), Context(), "d")
    blocks = [[(b.rows, b.indices, b.noise) for b in source.epoch(number)] for number in (0, 1, 2, 1)]
    assert [len(block) for block in blocks] == [2, 2, 1, 2]
    for first, second in zip(blocks[1], blocks[3], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(blocks[0][0][2], blocks[1][0][2])


def test_copies_change_no_bit_of_the_weights() -> None:
    none, four = (fit_denoiser(images(), settings(replications=m), Context()) for m in (0, 4))
    assert same(none, four)
    assert none.card["passes"] == pytest.approx(5 * four.card["passes"], rel=1e-2)


def test_labels_play_no_part_and_images_seed_and_name_do() -> None:
    short = settings(iterations=2)
    base = fit_denoiser(images(), short, Context())
    relabelled = ImageSet(images().read(slice(None)), [0, 1, 2, 0, 1, 2], 3)
    assert same(base, fit_denoiser(relabelled, short, Context()))
    assert not same(base, fit_denoiser(images(seed=1), short, Context()))
    assert not same(base, fit_denoiser(images(), short, Context(seed=1)))
    assert not same(base, fit_denoiser(images(), short, Context(), name="other"))


def test_the_host_streams_and_images_stay_as_they_are() -> None:
    before, pixels = torch.random.get_rng_state(), images()
    fingerprint = pixels.fingerprint()
    fit_denoiser(pixels, settings(iterations=2), Context())
    assert torch.equal(torch.random.get_rng_state(), before) and pixels.fingerprint() == fingerprint


# averages


def test_an_average_without_warm_up_takes_a_ten_thousandth() -> None:
    start, end = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 5.0])
    weight = start.clone()
    average = WeightAverage([weight], 0.9999, warmup=False)
    weight.copy_(end)
    average.update()
    assert torch.allclose(average.average[0], 0.9999 * start + 0.0001 * end, rtol=0, atol=1e-6)
    assert torch.equal(weight, end)
    average.apply()
    assert torch.equal(weight, average.average[0])


def test_a_warm_up_begins_with_a_tenth_and_ends_at_the_decay() -> None:
    weight = torch.zeros(1, dtype=torch.float64)
    average = WeightAverage([weight], 0.5, warmup=True)
    expected = 0.0
    for done in range(20):
        weight.fill_(done + 1)
        average.update()
        decay = min(0.5, (1 + done) / (10 + done))
        expected = decay * expected + (1 - decay) * (done + 1)
        assert float(average.average[0]) == pytest.approx(expected, rel=1e-12)
    assert int(average.updates) == 20


def test_the_result_is_the_average_and_not_the_last_weights() -> None:
    last, averaged = (
        fit_denoiser(images(), settings(ema_decay=decay, ema_warmup=False, iterations=2), Context())
        for decay in (0.0, 0.9)
    )
    assert not same(last, averaged)


# learning


def test_it_learns_a_plain_image() -> None:
    gray = ImageSet(np.full((4, 8, 8, 3), 128, np.uint8), [0] * 4, 1)
    chosen = settings(iterations=40, batch_size=8, lr=1e-2, dropout=0.0)
    curve = fit_denoiser(gray, chosen, Context()).card["curves"]["simple"]
    assert curve[0] > 0.8 and np.mean(curve[-4:]) < 0.85


@pytest.mark.parametrize("learn_sigma", [True, False])
def test_gray_and_uneven_images_without_or_with_learned_variance(learn_sigma: bool) -> None:
    context = Context()
    made = fit_denoiser(images(height=7, width=9, channels=1), settings(learn_sigma=learn_sigma, iterations=2), context)
    assert (made.channels, made.stride, made.image_size) == (1, 2, None)
    assert made.variance == ("learned_range" if learn_sigma else "fixed_small")
    prediction = made.predict(torch.zeros(2, 1, 8, 10), torch.tensor([0, 39]))
    assert prediction.eps.shape == (2, 1, 8, 10) and (prediction.variance is not None) == learn_sigma
    assert any("padded by reflection" in note for note in context.notes)


@pytest.mark.parametrize(("height", "width", "edge"), [(8, 7, None), (7, 7, 7), (8, 8, 8)])
def test_uneven_images_that_are_padded_to_a_square_have_no_edge_length(
    height: int, width: int, edge: int | None, tmp_path: Path
) -> None:
    made = fit_into(tmp_path / "d", images(height=height, width=width), settings(iterations=1), Context())
    assert made.image_size == edge
    assert made.config.sample_size == ((8, 8) if edge is None else 8)
    chosen = Purification(level=NoiseLevel(steps=5, of=1000))
    notes = plan(made, chosen, (height, width, 3)).notes
    assert not any("was trained on" in note for note in notes)


def test_padding_is_that_of_purification() -> None:
    source = NoisyBatches(images(height=7, width=9), settings(), Context(), "d", padding=(1, 1))
    batch = next(source.epoch(0))
    assert batch.images.shape == batch.noise.shape == (3, 3, 8, 10)
    assert torch.equal(batch.images[:, :, 7], batch.images[:, :, 5])
    assert torch.equal(batch.images[:, :, :, 9], batch.images[:, :, :, 7])


def test_no_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        fit_denoiser(images(0), settings(), Context())
    with pytest.raises(InputError, match="no images"):
        fit_into(tmp_path / "new" / "d", images(0), settings(), Context())
    assert list(tmp_path.iterdir()) == []


def test_fewer_images_than_a_batch_are_enough() -> None:
    made = fit_denoiser(images(1), settings(iterations=2), Context())
    assert made.card["images"]["count"] == 1


def test_divergence_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="diverged"):
        fit_denoiser(images(), settings(lr=1e30), Context(work_dir=tmp_path))
    assert list(tmp_path.iterdir()) == []


# keeping


def test_the_card_says_where_the_weights_come_from(tmp_path: Path) -> None:
    made = fit_denoiser(images(), settings(), Context(seed=3, work_dir=tmp_path))
    card = json.loads((tmp_path / "denoiser" / "card.json").read_text())
    assert card == made.card
    assert card["images"]["count"] == 6 and card["images"]["fingerprint"] == images().fingerprint()
    assert made.seen(images()).all() and not made.seen(images(seed=1)).any()
    assert (card["seed"], card["settings"], card["trained_steps"]) == (3, settings().dump(), 40)
    assert len(card["curves"]["loss"]) == 3 and card["final"]["bound"] == card["curves"]["bound"][-1]
    assert {"torch", "diffusers", "elixir_plugin", "python"} <= card["versions"].keys()


def test_without_a_work_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit_denoiser(images(), settings(iterations=2), Context())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fails_at", [2, 4, 5])
def test_a_run_stopped_within_a_block_ends_bit_identical(
    fails_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tmp_path / "whole"
    fit_into(expected, images(), settings(), Context())
    count = 0
    update = WeightAverage.update

    def stopping(self: WeightAverage) -> None:
        nonlocal count
        count += 1
        if count == fails_at:
            raise KeyboardInterrupt
        update(self)

    with monkeypatch.context() as patch:
        patch.setattr(WeightAverage, "update", stopping)
        with pytest.raises(KeyboardInterrupt):
            fit_into(tmp_path / "stopped", images(), settings(), Context())
    assert state_file(tmp_path / "stopped").exists() == (fails_at > 2) and not (tmp_path / "stopped").exists()
    fit_into(tmp_path / "stopped", images(), settings(), Context())
    assert files(tmp_path / "stopped") == files(expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped", "whole"]


def test_a_run_stopped_while_saving_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise RunError("cannot write")

    with monkeypatch.context() as patch:
        patch.setattr(UNetDenoiser, "save", full)
        with pytest.raises(RunError):
            fit_into(tmp_path / "d", images(), settings(), Context())
    trained: list[int] = []
    monkeypatch.setattr(NoisyBatches, "epoch", lambda self, number: trained.append(number))
    made = fit_into(tmp_path / "d", images(), settings(), Context())
    assert trained == [] and made.fingerprint() == load_denoiser(tmp_path / "d").fingerprint()


def test_a_finished_denoiser_is_loaded_and_another_one_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(work_dir=tmp_path)
    made = fit_denoiser(images(), settings(), context)
    before = files(tmp_path)
    monkeypatch.setattr(NoisyBatches, "epoch", lambda self, number: pytest.fail("trained again"))
    assert same(made, fit_denoiser(images(), settings(), context))
    for data, chosen, seed in (
        (images(seed=1), settings(), 0),
        (images(), settings(lr=1e-3), 0),
        (images(), settings(), 1),
    ):
        with pytest.raises(RunError, match="in the way"):
            fit_denoiser(data, chosen, Context(seed=seed, work_dir=tmp_path))
    assert files(tmp_path) == before


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="in the way"):
        fit_into(tmp_path, images(), settings(), Context())
    assert files(tmp_path) == {"notes.txt": b"mine"}


def test_the_state_of_other_settings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(UNetDenoiser, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fit_into(tmp_path / "d", images(), settings(), Context())
    with pytest.raises(RunError, match="another run"):
        fit_into(tmp_path / "d", images(seed=1), settings(), Context())


def test_what_a_kill_left_behind_goes_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".d[1].abc_0xyz.part").mkdir()
    (tmp_path / ".d[1].abc_0xyz.part" / "card.json").write_text("{}")
    (tmp_path / ".d[1].checkpoint.abc_0xyz.part").write_text("half")
    (tmp_path / ".other.abc_0xyz.part").write_text("not ours")
    fit_into(tmp_path / "d[1]", images(), settings(iterations=1), Context())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.abc_0xyz.part", "d[1]"]


def test_one_rank_trains_and_the_others_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = fit_into(tmp_path / "d", images(), settings(iterations=1), Context())
    monkeypatch.setattr(module, "rank_and_world", lambda: (1, 2))
    monkeypatch.setattr(module, "together", nullcontext)
    monkeypatch.setattr(module, "_fit", lambda *_: pytest.fail("trained by another rank"))
    assert same(made, fit_into(tmp_path / "d", images(), settings(iterations=1), Context()))


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
@pytest.mark.parametrize("fails", [False, True])
def test_two_processes_make_a_folder_one_after_the_other(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The second one starts while the first writes its state; when that fails, it goes on in its place."""
    expected, trained, errors = fit_denoiser(images(), settings(), Context()), list[str](), list[BaseException]()
    inside, go_on, train, folder = threading.Event(), threading.Event(), module._fit, tmp_path / "d"

    def noted(*args: Any, **options: Any) -> tuple[UNetDenoiser, float]:
        trained.append(threading.current_thread().name)
        if len(trained) == 1:
            with atomic_file(state_file(folder)) as temporary:
                temporary.write_text("half")
                inside.set()
                assert go_on.wait(60)
                if fails:
                    raise KeyboardInterrupt
            state_file(folder).unlink()
        return train(*args, **options)

    def attempt() -> None:
        try:
            assert same(expected, fit_into(folder, images(), settings(), Context()))
        except BaseException as error:
            errors.append(error)

    monkeypatch.setattr(module, "_fit", noted)
    first, second = (threading.Thread(target=attempt, name=name) for name in ("first", "second"))
    first.start()
    assert inside.wait(60)
    second.start()
    second.join(0.5)
    assert second.is_alive() and trained == ["first"] and "waiting" in caplog.text
    go_on.set()
    for each in (first, second):
        each.join(60)
    assert trained == (["first", "second"] if fails else ["first"])
    assert [type(error) for error in errors] == ([KeyboardInterrupt] if fails else [])
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_folder_that_another_process_fills_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(folder: Path) -> None:
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")

    monkeypatch.setattr(module, "refuse_unwritable", meanwhile)
    with pytest.raises(RunError, match="in the way"):
        fit_into(tmp_path / "d", images(), settings(), Context())
    assert files(tmp_path) == {"d/notes.txt": b"mine"}


def test_a_lock_that_a_killed_process_left_behind_goes(tmp_path: Path) -> None:
    (tmp_path / "d.lock").touch()
    fit_into(tmp_path / "d", images(), settings(iterations=1), Context())
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_nothing_is_written_where_the_folder_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit_into(tmp_path / "d", images(), settings(iterations=1), Context())
    monkeypatch.setattr(module, "alone", lambda _: pytest.fail("locked"))
    fit_into(tmp_path / "d", images(), settings(iterations=1), Context())


PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from elixir_plugin import Context, ImageSet
from elixir_plugin.diffusion.denoisers import unet
from elixir_plugin.diffusion.fit import train
from elixir_plugin.diffusion.fit.settings import FitSettings
from elixir_plugin.training import checkpoint
options = {**unet.SIZES["tiny"].options, "attention_head_dim": 8}
unet.SIZES = {**unet.SIZES, "tiny": unet.Architecture((8, 16), 1, (False, True), options)}
train.BLOCK, checkpoint.INTERVAL = 4, 0.0
pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
chosen = FitSettings.build({"iterations": 200, "batch_size": 4, "dropout": 0.2}, preset="cpu")
train.fit_into(Path(sys.argv[1]), ImageSet(pixels, [0] * 6, 1), chosen, Context())
"""


@pytest.mark.slow
def test_a_process_killed_again_and_again_ends_with_the_same_files(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, env=environment, timeout=300)
    state, rng = state_file(tmp_path / "killed"), np.random.default_rng(0)
    kills = 0
    while kills < 3:
        process = subprocess.Popen([*command, str(tmp_path / "killed")], env=environment)
        before = state.stat().st_mtime_ns if state.exists() else 0
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if state.exists() and state.stat().st_mtime_ns != before:
                time.sleep(float(rng.uniform(0, 0.3)))
                break
            time.sleep(0.01)
        assert process.poll() is None, "it ended before it was killed"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "killed").exists()
        kills += 1
    subprocess.run([*command, str(tmp_path / "killed")], check=True, env=environment, timeout=300)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert not state.exists()


# what runs share


def test_runs_that_share_a_cache_train_an_equal_denoiser_once_and_each_counts_its_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    train = module._fit

    def noted(*args: Any, **options: Any) -> tuple[UNetDenoiser, float]:
        trained.append(args[3])
        return train(*args, **options)[0], 100.0

    monkeypatch.setattr(module, "_fit", noted)
    alone = fit_denoiser(images(), settings(), Context(), name="d")
    found, timings = [], []
    for place, seed in (("a", 0), ("b", 0), ("c", 1), ("a", 0)):
        context = Context(seed=seed, cache=tmp_path / "shared", work_dir=tmp_path / place)
        started = context.counted_time()
        with context.stage("denoiser"):
            found.append(fit_denoiser(images(), settings(), context, name="d"))
        timings.append((context.timings["denoiser"], context.counted_time() - started))
    assert same(found[0], alone) and same(found[1], alone) and not same(found[2], alone) and same(found[3], alone)
    assert trained == ["d"] * 3  # alone, the first of seed 0, and seed 1
    assert all(99 < seconds < 101 for row in timings[:3] for seconds in row)
    assert timings[3][0] < 99  # what an earlier attempt of the same run trained, its event log counts


def test_seconds_of_a_killed_training_are_counted_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))  # a second passes whenever one looks at the clock
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(ticks)))
    with monkeypatch.context() as patch:
        patch.setattr(WeightAverage, "apply", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit_into(tmp_path / "d", images(), settings(), Context(), timing=tmp_path / "d.json")
    fit_into(tmp_path / "d", images(), settings(), Context(), timing=tmp_path / "d.json")
    assert json.loads((tmp_path / "d.json").read_text())["seconds"] == 5 + 1  # five iterations, and finding them done
    assert "d.json" not in files(tmp_path / "d")


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt

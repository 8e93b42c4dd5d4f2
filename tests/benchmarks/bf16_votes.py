"""Whether bf16 changes what DataElixir votes, and how much faster it is on this CPU.

A probe is trained on suspects of CIFAR-10 (32 px, 10 % ``badnets``). Some of them are purified in float32 and in bf16,
with the same noise, and the probe votes on every kept state. Printed, as rows of a table: the share of votes that
differ, also between two float32 runs in batches of another size (rounding alone); the share of poison and of other
samples that move, in both; how far pixels are apart (RMS, of 255); network evaluations per second of CPU time.

    OMP_NUM_THREADS=1 python tests/benchmarks/bf16_votes.py --denoiser FOLDER --preset small
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from cifar import ARCHIVE
from dataelixir_images import make_case

from elixir_plugin import Context
from elixir_plugin.core.images import Images, ImageSet, Index
from elixir_plugin.defenses.dataelixir.denoiser import plan_round
from elixir_plugin.defenses.dataelixir.purify import Candidates, Purifier, predict_slots
from elixir_plugin.defenses.dataelixir.settings import DataElixirSettings
from elixir_plugin.diffusion.denoisers.base import Denoiser
from elixir_plugin.diffusion.denoisers.denoiser import find_denoiser
from elixir_plugin.training.fit import learn, untrained
from elixir_plugin.training.loop import Recipe


def purified(
    denoiser: Denoiser, settings: DataElixirSettings, images: ImageSet, precision: str, batch: int | None = None
) -> tuple[Images, float]:
    """Return the copies of all *images*, and the seconds of CPU time per network evaluation of one image."""
    way = settings.purification.model_copy(update={"precision": precision, "batch_size": batch})
    chosen = settings.model_copy(update={"purification": way})
    purifier = Purifier(denoiser, plan_round(denoiser, chosen, images), chosen, images, seed=1)
    purifier.copies(np.arange(8))  # the first call is slower
    started = time.process_time()
    copies = purifier.copies(np.arange(len(images)))
    evaluations = len(images) * purifier.planned.nfe * way.rounds
    return copies, (time.process_time() - started) / evaluations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--denoiser", required=True)
    parser.add_argument("--preset", default="small", help="of DataElixir, or default")
    parser.add_argument("--suspects", type=int, default=6000, help="that the probe is trained on")
    parser.add_argument("--purify", type=int, default=512, help="of them, those that are purified")
    parser.add_argument("--poison", default="badnets")
    options = parser.parse_args()
    case = make_case(options.poison, (options.suspects, 100, 500), 0, ARCHIVE, fold=1)
    assert case.train is not None and case.truth is not None
    context = Context(seed=0)
    settings = DataElixirSettings.build(preset=None if options.preset == "default" else options.preset)
    probe = untrained(case.train, "fast_convnet", 0, context.device)
    learn(probe, case.train, Recipe.build(preset="fast"), context, name="probe", stage="probe")
    rows = np.arange(options.purify)
    images, poison = case.train.subset(rows), case.truth.poison[rows]
    denoiser = find_denoiser(options.denoiser)
    if denoiser.variance != "learned_range":
        denoiser.variance = settings.step_variance(case.clean)
    print(f"{denoiser.summary}, preset {options.preset}, {len(rows)} images, {torch.get_num_threads()} thread(s)")
    print(
        "| precision | votes that differ from float32 % | RMS of 255 | moved: poison / others % | evaluations per s |"
    )
    print("|---|---|---|---|---|")
    first: tuple[Images, Index] | None = None
    for name, precision, batch in (
        ("float32", "float32", None),
        ("float32, other batches", "float32", 5),
        ("bf16", "bf16", None),
    ):
        copies, seconds = purified(denoiser, settings, images, precision, batch)
        candidates = Candidates(images, settings.slots)
        candidates.add(rows, copies)
        votes = predict_slots(probe, candidates, rows, context, "votes")
        moved = (votes[:, 1:] != votes[:, :1]).sum(1) >= settings.threshold
        first = first or (copies, votes)
        apart = np.sqrt(np.square(copies.astype(np.float32) - first[0]).mean())
        changed = (votes[:, 1:] != first[1][:, 1:]).mean()
        print(
            f"| {name} | {100 * changed:.2f} | {apart:.2f} | {100 * moved[poison].mean():.1f} / "
            f"{100 * moved[~poison].mean():.1f} | {1 / seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

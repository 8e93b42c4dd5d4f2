"""Sets made by backdoor-toolbox's own script beside the same sets made by the testbed, and models trained on either.

    OMP_NUM_THREADS=1 .venv/bin/python tests/benchmarks/toolbox_sets.py --toolbox CHECKOUT --work DIR [--train]

The checkout is copied to *DIR* and stays as it is. Both sides poison the same batches of CIFAR-10, written from the
archive ``--data``, with the rates of Confusion Training's paper. Columns of the first tables: the script's poison
samples, those of the testbed, and the testbed's trigger on the samples that the script chose. The testbed is given the
picture of the script (adaptive_blend), its patch (TaCT) and its control points (WaNet); the logos of adaptive_patch
have no counterpart.

``--train`` trains the network of the testbed on both sets, one model after the other, and shows ACC and the ASR of
each model under both triggers. What is in ``DIR/trained.json`` is not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cifar import ARCHIVE
from scipy.stats import ks_2samp
from toolbox_pairs import (
    ATTACKS,
    Attack,
    SameWarp,
    Values,
    control_points,
    cover_noise,
    folder_of,
    our_case,
    our_poison,
    prepared,
    their_case,
)

from elixir_plugin.core.case import Case, TriggeredSet
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet
from elixir_plugin.core.pixels import to_floats
from elixir_plugin.evaluation.metrics import model_metrics
from elixir_plugin.testbed.adapter import ON_A_BASE, SuspectRecipe, train_suspect
from elixir_plugin.testbed.adaptive import AdaptiveBlend
from elixir_plugin.testbed.base import Backdoor
from elixir_plugin.testbed.keeping import kept_model
from elixir_plugin.testbed.wanet import WaNet

VISIBLE = 0.6 / 255  # a larger change of a pixel is more than what rounding to 8 bits does


def pixels(images: ImageSet, rows: Any) -> Values:
    return to_floats(images.read(rows))


def measures(before: Values, after: Values) -> dict[str, str]:
    """Say how much *after* differs from *before*, both ``[n, H, W, C]`` in [0, 1]; values are shown in 1/255."""
    change = np.abs(after.astype(np.float64) - before)
    lengths, seen = l2(before, after), change.max(3) > VISIBLE
    rows, columns = (np.flatnonzero(seen.any(axes)) for axes in ((0, 2), (0, 1)))
    quality = 10 * np.log10(1 / np.maximum((change**2).mean((1, 2, 3)), 1e-12))
    low, high = np.quantile(lengths, [0.05, 0.95])
    return {
        "mean / max change, of 255": f"{255 * change.mean():.3f} / {255 * change.max():.1f}",
        "pixels changed": f"{100 * seen.mean():.2f} %",
        "rows, columns changed": f"{rows.min()}–{rows.max()}, {columns.min()}–{columns.max()}",
        "L2 per image: mean (5 %, 95 %)": f"{lengths.mean():.3f} ({low:.3f}, {high:.3f})",
        "PSNR, mean": f"{quality.mean():.2f} dB",
    }


def l2(before: Values, after: Values) -> Values:
    return np.sqrt(((after.astype(np.float64) - before) ** 2).sum((1, 2, 3)))


def counts(case: Case, labels: Any) -> dict[str, str]:
    """Say how many samples are poison or cover, and of which classes; *labels* are those before poisoning."""
    truth = case.truth
    assert truth is not None and truth.cover is not None and case.train is not None
    found = {}
    for kind, mask in (("poison", truth.poison), ("covers", truth.cover)):
        assigned = np.unique(case.train.labels[mask]).tolist() if kind == "poison" else "kept"
        of = np.bincount(labels[mask], minlength=10).tolist()
        found[f"{kind}: samples"] = f"{mask.sum()}"
        found[f"{kind}: of each class"] = " ".join(map(str, of))
        found[f"{kind}: label"] = f"{assigned}" if kind == "poison" else (
            "kept" if np.array_equal(case.train.labels[mask], labels[mask]) else "changed")  # fmt: skip
    return found


def same_samples(poison: Backdoor, theirs: Case, clean: Case) -> tuple[Values, Values, Values]:
    """Return the samples that the script poisoned: clean, as it made them, and as *poison* makes them, in floats."""
    assert theirs.truth is not None and theirs.train is not None and clean.train is not None
    rows = np.flatnonzero(theirs.truth.poison)
    before = pixels(clean.train, rows)
    ours = np.clip(poison.trigger(before, clean.train.labels[rows], clean.train.ids[rows]), 0, 1)
    return before, pixels(theirs.train, rows), ours


def agreement(name: str, poison: Backdoor, theirs: Case, clean: Case, root: Path) -> dict[str, float]:
    """Return the largest differences, of pixels in [0, 1], where both sides are given the same random numbers.

    ``test``: of the triggered test images; ours are rounded to 8 bits. ``pieces``: of the pieces of adaptive_blend,
    each of which is blended or left.
    """
    before, made, ours = same_samples(poison, theirs, clean)
    assert theirs.truth is not None and theirs.truth.cover is not None
    assert theirs.test is not None and theirs.test_poisoned is not None
    found = {}
    if name != "adaptive_patch":  # its pictures differ
        shown = (
            pixels(each.samples, slice(None)) for each in (theirs.test_poisoned, poison.triggered_test(theirs.test))
        )
        found["test"] = largest(*shown)
    if name == "adaptive_blend":
        settings = poison.settings.model_copy(update={"shown": 1.0})
        full = AdaptiveBlend(settings).trigger(before, *[np.zeros(len(before), int)] * 2)
        side = before.shape[1] // 4
        gap, rest = (np.abs(made - each).reshape(-1, 4, side, 4, side, 3).max((2, 4, 5)) for each in (full, before))
        found |= {"pieces": float(np.minimum(gap, rest).max()), "pieces shown": float((rest > gap).sum((1, 2)).mean())}
    if name == "WaNet":
        assert isinstance(poison, SameWarp)
        found["control points"] = control_points(folder_of(root, name))[1]
        poison.field = cover_noise(before.shape[1])
    if name in ("WaNet", "TaCT"):
        covers = np.flatnonzero(theirs.truth.cover)
        plain, shown = pixels(clean.train, covers), pixels(theirs.train, covers)
        mine = np.clip(poison.cover_trigger(plain, np.zeros(len(covers), int), covers), 0, 1)
        found |= {"poison": largest(made, ours), "covers": largest(shown, mine)}
    if isinstance(poison, SameWarp):
        poison.field = None
    return found


def largest(one: Values, other: Values) -> float:
    return float(np.abs(one - other).max())


def compared(name: str, attack: Attack, root: Path, work: Path) -> Iterator[str]:
    """Yield the table of one attack."""
    theirs = their_case(root, name, attack)
    poison = our_poison(root, name, attack, work)
    ours, clean = our_case(root, poison)
    assert clean.train is not None and ours.train is not None and ours.truth is not None
    before, made, same = same_samples(poison, theirs, clean)
    rows = np.flatnonzero(ours.truth.poison)
    own = (pixels(clean.train, rows), pixels(ours.train, rows))
    cells = [
        {**counts(theirs, clean.train.labels), **measures(before, made)},
        {**counts(ours, clean.train.labels), **measures(*own)},
        measures(before, same),
    ]
    yield f"\n### {name}: rate {attack.rate:.1%}, covers {attack.cover_rate:.1%}, {len(clean.train):,} images\n"
    yield "| measure | the script | testbed | testbed, same samples |\n|---|---|---|---|"
    for key in cells[0]:
        yield f"| {key} | " + " | ".join(cell.get(key, "") for cell in cells) + " |"
    p = [ks_2samp(l2(before, made), l2(*each), method="asymp").pvalue for each in (own, (before, same))]
    yield f"| L2, two-sample Kolmogorov–Smirnov, p | | {p[0]:.2g} | {p[1]:.2g} |"
    found = agreement(name, poison, theirs, clean, root)
    yield f"\nGiven the same random numbers: {', '.join(f'{key} {value:.2g}' for key, value in found.items()) or '–'}."
    if name == "WaNet":
        draws = [WaNet(poison.settings.model_copy(update={"pattern_seed": seed})) for seed in range(20)]
        means = [l2(before[:500], each.trigger(before[:500], None, None)).mean() for each in draws]  # type: ignore[arg-type]
        yield f"Mean L2 of 20 other draws of the control points: {min(means):.3f} to {max(means):.3f}."


def behaviour(model: Classifier, name: str, poison: Backdoor, theirs: Case) -> dict[str, float | None]:
    """Return ACC, the ASR under both triggers, and for WaNet what the model says of images under cover warps."""
    assert theirs.test is not None
    test, mine = theirs.test, poison.triggered_test(theirs.test)
    found = model_metrics(model, test, theirs.test_poisoned)
    shares = {"acc": found.acc, "asr, script": found.asr, "asr, testbed": model_metrics(model, test, mine).asr}
    if isinstance(poison, SameWarp):
        away = test.subset(np.flatnonzero(test.labels != poison.settings.target))
        for kind, field in (("drawn for each image", None), ("of the script", cover_noise(test.image_shape[0]))):
            poison.field = field
            under = warped(away, poison)
            found = model_metrics(model, under.replace(labels=away.labels), TriggeredSet(under, away.labels))
            shares |= {f"noise {kind}: to target": found.asr, f"noise {kind}: right": found.acc}
        poison.field = None
    return shares


def warped(images: ImageSet, poison: SameWarp) -> ImageSet:
    """Return *images* as covers, with the target label."""
    out = np.clip(poison.cover_trigger(pixels(images, slice(None)), images.labels, images.ids), 0, 1)
    return images.replace(images=out.astype(np.float32), labels=np.full(len(images), poison.settings.target))


def trained(name: str, root: Path, work: Path, given: argparse.Namespace) -> None:
    """Train on both sets of one attack, and keep what comes out in ``trained.json``."""
    kept = work / "trained.json"
    recipe = SuspectRecipe.build(
        {**ON_A_BASE["recipe"], "augmentation": {"crop": 2, "flip": True}, "epochs": given.epochs,
         "precision": given.precision}
    )  # fmt: skip
    theirs = their_case(root, name, ATTACKS[name])
    poison = our_poison(root, name, ATTACKS[name], work)
    for side, seed in ((side, seed) for seed in range(given.seeds) for side in ("script", "testbed")):
        results = json.loads(kept.read_text()) if kept.exists() else {}
        key = f"{name}, {side}, seed {seed}, {given.epochs} epochs, {given.precision}"
        if key in results:
            continue
        started = time.time()
        case = theirs if side == "script" else our_case(root, poison, seed)[0]
        make = partial(train_suspect, case, recipe, Context(seed=seed), "fast_convnet", normalised=True)
        model = kept_model(work / "models", "suspect", key, make)
        found = {**behaviour(model, name, poison, theirs), "seconds": round(time.time() - started)}
        print(time.strftime("%H:%M:%S"), key, found, flush=True)
        kept.write_text(json.dumps({**results, key: found}, indent=1))


def results(work: Path) -> Iterator[str]:
    """Yield the table of what has been trained."""
    kept = work / "trained.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    yield "\n| trained on the set of | ACC | ASR, script's trigger | ASR, testbed's trigger | minutes |"
    yield "|---|---|---|---|---|"
    for key, value in sorted(found.items()):
        shown = [f"{100 * value[each]:.2f}" for each in ("acc", "asr, script", "asr, testbed")]
        yield f"| {key} | {' | '.join(shown)} | {value['seconds'] / 60:.1f} |"
    yield "\n| WaNet trained on the set of | noise | to the target | right |\n|---|---|---|---|"
    for key, value in sorted(found.items()):
        for kind in ("drawn for each image", "of the script"):
            if f"noise {kind}: right" in value:
                shares = (f"{100 * value[f'noise {kind}: {each}']:.2f}" for each in ("to target", "right"))
                yield f"| {key} | {kind} | {' | '.join(shares)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toolbox", type=Path, required=True, help="a checkout of backdoor-toolbox")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=ARCHIVE, help="CIFAR-10 as an archive of class folders of JPEG")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--tests", type=int, default=10_000)
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--train", action="store_true", help="train models too")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1, help="of models and of the testbed's draws")
    parser.add_argument("--precision", default="fastest", choices=["fastest", "float32"])
    given = parser.parse_args()
    work = given.work.resolve()
    root = prepared(given.toolbox, work, given.data, given.images, given.tests)
    for name in given.attacks:
        print("\n".join(compared(name, ATTACKS[name], root, work)), flush=True)
    if given.train:
        for name in given.attacks:
            trained(name, root, work, given)
    print("\n".join(results(work)))


if __name__ == "__main__":
    main()

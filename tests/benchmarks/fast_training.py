"""What the recipe `fast` reaches with `fast_convnet` on full-size CIFAR-10, and how long it takes on this machine.

    python tests/benchmarks/fast_training.py --threads 2 --seeds 201 202

Nothing was chosen by looking at these seeds, or at test images: settings were tried on 10,000 training images held
back from the others (``--held-back 10000`` does that). The time is that of the training alone, with images decoded.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="zip file of class folders, folder, or folder of CIFAR's batches")
    parser.add_argument("--work", type=Path, help="where decoded images are kept; default: that of proving_ground.py")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[201])
    parser.add_argument(
        "--held-back", type=int, default=0, help="score on so many training images, not on the test set"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the recipe")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before torch is imported
    sys.path.insert(0, str(Path(__file__).parent))
    return measure(options)


def measure(options: argparse.Namespace) -> int:
    import torch
    from ground_base import ARCHIVE, WORK, prepare

    from elixir_plugin.adapter import get_adapter
    from elixir_plugin.core.context import Context
    from elixir_plugin.core.draws import stratified_rows
    from elixir_plugin.core.settings import parse_assignments
    from elixir_plugin.evaluation.metrics import model_metrics
    from elixir_plugin.training.fit import learn, untrained
    from elixir_plugin.training.loop import Recipe

    torch.set_num_threads(options.threads)
    work = options.work or WORK
    work.mkdir(parents=True, exist_ok=True)
    base = prepare(options.data or str(ARCHIVE), work, None)
    adapter, _, path = base.options["base"].partition(":")
    case = get_adapter(adapter)(base.options["base_options"]).read(Path(path))
    train, scored = case.train, case.test
    assert train is not None
    if options.held_back:
        rows = stratified_rows(train.labels, options.held_back, 0)
        scored = train.subset(rows)
        train = train.subset([row for row in range(len(train)) if row not in set(rows.tolist())])
    mirrored: dict[str, Any] = {"preset": "fast", "augmentation": {"flip": True}}
    recipe = Recipe.build(Recipe.overlaid(mirrored, parse_assignments(options.set)))
    print(f"{base.name}; {len(train):,} to learn from; {options.threads} threads; {recipe}", flush=True)
    for seed in options.seeds:
        context = Context(seed=seed)
        model = untrained(train, "fast_convnet", context.derive_seed("weights"), torch.device("cpu"))
        began = time.monotonic()
        curves = learn(model, train, recipe, context, name="fast", stage="fast")
        seconds = time.monotonic() - began
        found = model_metrics(model, scored, None)
        share = curves["accuracy"][-1]
        print(
            f"seed {seed}: ACC {100 * found.acc:.2f} % (of what it learned from {100 * share:.1f} %), {seconds:.0f} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Peak memory of a purification for a small and a ten times larger set.

Each size runs in its own process, which reports its peak resident set. The images are made when they are read, so that
the input does not count, and the result, float32, goes to a store on disk. The libraries alone need more than the
output, so the ratio of the peaks says little; their difference is also compared with the difference of the outputs.
The program ends with an error when either exceeds its limit.

::

    python tests/benchmarks/purify_memory.py
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet, LazyImages
from elixir_plugin.diffusion.denoisers.denoiser import UNetDenoiser
from elixir_plugin.diffusion.denoisers.unet import SIZES, Architecture, build_unet
from elixir_plugin.diffusion.plan import Purification
from elixir_plugin.diffusion.purify import purify
from elixir_plugin.diffusion.schedule import Schedule

MIB = 1 << 20
UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def lazy_images(count: int, side: int) -> ImageSet:
    """Return *count* images that exist only while they are read."""

    def read(position: int) -> Any:
        return np.random.default_rng(position).random((side, side, 3), np.float32)

    return ImageSet(LazyImages(read, count, (side, side, 3), np.float32), np.zeros(count, np.int64), 1)


def denoiser(side: int) -> UNetDenoiser:
    """Return a network with two levels and random weights; memory does not depend on their values."""
    plan = Architecture((16, 32), 1, (False, False), {**SIZES["tiny"].options, "attention_head_dim": 16})
    return UNetDenoiser(build_unet(plan, side), Schedule("cosine", 1000), variance="fixed_large")


def measure(count: int, side: int, steps: int, store: Path) -> dict[str, float]:
    """Purify *count* images in this process; return peaks in bytes and the time in seconds."""
    settings = Purification.build({"level": {"steps": 3, "of": 1000}, "steps": steps})
    network, images = denoiser(side), lazy_images(count, side)
    purify(network, settings, lazy_images(256, side), Context(), seed_name="warm-up", store=store / "warm-up")
    before, started = peak(), time.perf_counter()
    out = purify(network, settings, images, Context(), seed_name="benchmark", store=store / "out")
    assert isinstance(out.images, np.memmap) and len(out) == count
    return {"count": count, "before": before, "peak": peak(), "seconds": time.perf_counter() - started}


def peak() -> int:
    """Return the peak resident set of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def measure_apart(count: int, options: argparse.Namespace) -> dict[str, float]:
    """Call :func:`measure` in a fresh process."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        arguments = ["--one", str(count), "--side", str(options.side), "--steps", str(options.steps)]
        command = [sys.executable, __file__, *arguments, "--folder", folder]
        out = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs=2, default=(2000, 20000))
    parser.add_argument("--side", type=int, default=16, help="edge length in pixels")
    parser.add_argument("--steps", type=int, default=1, choices=(1, 2, 3), help="K; memory does not depend on it")
    parser.add_argument("--limit", type=float, default=1.1, help="largest ratio of the peaks")
    parser.add_argument("--share", type=float, default=0.25, help="largest share of the output that stays in memory")
    parser.add_argument("--folder", type=Path, help="where the stores are made, for a while")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        torch.set_num_threads(1)
        print(json.dumps(measure(options.one, options.side, options.steps, options.folder)))
        return
    rows = [measure_apart(count, options) for count in options.counts]
    sizes = [int(row["count"]) * options.side**2 * 3 * 4 for row in rows]
    for row, size in zip(rows, sizes, strict=True):
        print(
            f"{row['count']:>7,.0f} images: peak {row['peak'] / MIB:.1f} MiB, {row['before'] / MIB:.1f} before they "
            f"came; output {size / MIB:.1f} MiB; {row['seconds']:.0f} s"
        )
    more = rows[1]["peak"] - rows[0]["peak"]
    ratio, share = rows[1]["peak"] / rows[0]["peak"], more / (sizes[1] - sizes[0])
    print(f"ratio of the peaks: {ratio:.3f} (limit {options.limit})")
    print(
        f"the larger set needs {more / MIB:.1f} MiB more: {share:.1%} of the larger output (limit {options.share:.0%})"
    )
    if ratio > options.limit or share > options.share:
        sys.exit(1)


if __name__ == "__main__":
    main()

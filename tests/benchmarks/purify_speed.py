"""How fast images are purified: against a plain diffusers loop, and against what the machine can multiply.

Counts images × network evaluations per second, for the same network, noise level and steps:

(a) plain: ``DDPMScheduler.step`` after each call of the network, float32, batch by batch, default memory layout;
(b) this engine, in the precision asked for.

The network's floating-point operations are counted by torch, and set against the fastest large matrix product measured
in the same run, in the engine's precision. All three are taken in turns, and medians are reported.

A CPU with bf16 arithmetic should make (b) at least 1.6 times as fast as (a); measure that with ``--precision bf16``.
Whether this one has it is looked up and reported; without it bf16 is slower than float32, and says nothing.

    OMP_NUM_THREADS=1 python tests/benchmarks/purify_speed.py --size tiny --image-size 16
    python tests/benchmarks/purify_speed.py --size ddpm --precision bf16    # a CPU with bf16 arithmetic
    python tests/benchmarks/purify_speed.py --size ddpm --device cuda --precision bf16 --compile --batch 256
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from elixir_plugin.diffusion.denoisers.base import Denoiser
from elixir_plugin.diffusion.denoisers.denoiser import UNetDenoiser
from elixir_plugin.diffusion.denoisers.unet import SIZES, build_unet
from elixir_plugin.diffusion.plan import Purification, plan
from elixir_plugin.diffusion.purify import purify_batch
from elixir_plugin.diffusion.schedule import NoiseLevel, Schedule

SCHEDULE = Schedule("linear", 1000)
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of /proc/cpuinfo: x86 the first two, ARM the last


def plain_loop(network: torch.nn.Module, images: Tensor, steps: int, batch: int) -> Tensor:
    """Purify as one would with diffusers alone."""
    scheduler = DDPMScheduler(**SCHEDULE.to_diffusers(), variance_type="fixed_large", clip_sample=True)
    generator = torch.Generator(images.device).manual_seed(0)
    done = []
    with torch.no_grad():
        for part in images.split(batch):
            states = part * 2 - 1
            noise = torch.randn(states.shape, generator=generator, device=states.device)
            states = scheduler.add_noise(states, noise, torch.tensor([steps - 1], device=states.device))
            for index in range(steps - 1, -1, -1):
                eps = network(states, index).sample
                states = scheduler.step(eps, index, states, generator=generator).prev_sample
            done.append(((states + 1) / 2).clamp(0, 1))
    return torch.cat(done)


def flops_per_image(denoiser: Denoiser, image_size: int) -> float:
    """Return floating-point operations of one network evaluation of one image; a multiply-add counts as two."""
    states = torch.zeros(1, denoiser.channels, image_size, image_size, device=denoiser.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        denoiser.predict(states, torch.zeros(1, dtype=torch.int64, device=denoiser.device))
    return float(counter.get_total_flops())


def native_bf16(device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Return whether *device* multiplies bf16 in hardware; None where that cannot be looked up.

    torch's own answer for CPUs is also yes where oneDNN only converts to float32 and back.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        return not BF16_FLAGS.isdisjoint(cpuinfo.read_text().split())
    except OSError:
        return None


def remark_on_bf16(device: torch.device, precision: str, native: bool | None) -> str | None:
    """Return what a reader must know about the ratio to (a), if anything."""
    if precision == "bf16" and native is False:
        looked = f" (none of {', '.join(sorted(BF16_FLAGS))} in /proc/cpuinfo)" if device.type == "cpu" else ""
        return (
            f"this {device.type} device has no bf16 arithmetic{looked}: bf16 is slower than float32 here, and the "
            "ratio is not what to expect of one that has"
        )
    if precision == "float32" and native and device.type == "cpu":
        return "this CPU has bf16 arithmetic: what is expected of it is measured with --precision bf16"
    return None


def matmul_flops(clock: Clock, dtype: torch.dtype) -> float:
    """Return floating-point operations per second of one large matrix product."""
    edge = 8192 if clock.device.type == "cuda" else 1024
    left, right = (torch.randn(edge, edge, device=clock.device).to(dtype) for _ in range(2))
    return 2 * edge**3 / min(clock.seconds(lambda: left @ right) for _ in range(4))


class Clock:
    """Times work on *device*, by the wall or by the seconds that a CPU spent on this process."""

    def __init__(self, device: torch.device, busy: bool) -> None:
        self.device = device
        self.now = time.process_time if busy else time.perf_counter

    def seconds(self, work: Callable[[], object]) -> float:
        self.wait()
        started = self.now()
        work()
        self.wait()
        return self.now() - started

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5, help="t*, all of them visited")
    parser.add_argument("--batch", type=int, help="images per call, of both; default: what the engine finds")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--busy", action="store_true", help="count CPU seconds, for a CPU that others use too; take one thread then"
    )
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--no-channels-last", action="store_true")
    chosen = parser.parse_args()

    device = torch.device(chosen.device)
    native = native_bf16(device)
    if remark := remark_on_bf16(device, chosen.precision, native):
        print(f"note: {remark}", file=sys.stderr)
    clock = Clock(device, chosen.busy)
    network = build_unet(chosen.size, chosen.image_size, 3, False).to(device).eval()
    denoiser = UNetDenoiser(network, SCHEDULE, variance="fixed_large")
    settings = Purification(
        level=NoiseLevel(steps=chosen.steps, of=SCHEDULE.length),
        precision=chosen.precision,
        compile=chosen.compile,
        batch_size=chosen.batch,
        channels_last=not chosen.no_channels_last,
    )
    planned = plan(denoiser, settings, (chosen.image_size, chosen.image_size, 3))
    batch = planned.batch.find(denoiser, planned.padded_shape, bf16=chosen.precision == "bf16")
    images = torch.rand(chosen.images, 3, chosen.image_size, chosen.image_size, device=device)
    ids = torch.arange(chosen.images)
    dtype = torch.bfloat16 if chosen.precision == "bf16" else torch.float32

    def plain() -> Tensor:
        return plain_loop(network, images, chosen.steps, batch)

    def engine() -> Tensor:
        return purify_batch(denoiser, planned, images, ids, 0).images

    for work in (plain, engine):  # warm up: kernels are chosen, compiled and packed
        work()
    rows = [(clock.seconds(plain), clock.seconds(engine), matmul_flops(clock, dtype)) for _ in range(chosen.repeats)]
    plain_time, engine_time, peak = (statistics.median(column) for column in zip(*rows, strict=True))
    evaluations = chosen.images * planned.nfe
    flops = flops_per_image(denoiser, chosen.image_size)
    print(
        json.dumps(
            {
                "settings": vars(chosen),
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "native_bf16": native,
                "batch": batch,
                "gflop_per_evaluation": round(flops / 1e9, 3),
                "plain_evaluations_per_second": round(evaluations / plain_time, 2),
                "engine_evaluations_per_second": round(evaluations / engine_time, 2),
                "engine_over_plain": round(plain_time / engine_time, 3),
                "matmul_gflops": round(peak / 1e9, 1),
                "engine_gflops": round(evaluations * flops / engine_time / 1e9, 1),
                "share_of_matmul_peak": round(evaluations * flops / engine_time / peak, 3),
                "seconds": {"plain": [row[0] for row in rows], "engine": [row[1] for row in rows]},
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()

"""``elixir-plugin denoiser …``: make a denoiser from clean images, look into one, see what it does.

Everything slow is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import SettingsError
from ..io.text import escape_control
from . import grids
from .denoiser_train import train
from .options import PathType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..diffusion.denoisers.base import Denoiser

SHARES = (0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0)  # of the trained steps, shown as noise levels
FACTS = (
    "class",
    "network",
    "parameters",
    "image",
    "stride",
    "schedule",
    "variance",
    "timesteps",
    "trained",
    "fingerprint",
)
SHOWN = ("origin", "source", "identity", "seed", "device")  # of the card, as they are

_device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
_seed = click.option("--seed", default=0, show_default=True, help="Of all random draws.")
_size = click.option("--image-size", type=click.IntRange(1, 4096), help="Edge length, for a denoiser of any size.")
_channels = click.option("--channels", type=click.Choice(["1", "3"]), default="3", show_default=True)


@click.group()
def denoiser() -> None:
    """Train, inspect and try diffusion denoisers."""


denoiser.add_command(train)


@denoiser.command(name="show")
@click.argument("source")
@_size
@_channels
@click.option("--json", "as_json", is_flag=True)
def show(*, source: str, image_size: int | None, channels: str, as_json: bool) -> None:
    """Show what the denoiser SOURCE is: a folder, a checkpoint file, owner/name on the Hub, or a plugin's name."""
    from ..diffusion.denoisers.denoiser import find_denoiser

    facts = _facts(find_denoiser(source, image_size=image_size, channels=int(channels)))
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    card = facts["card"]
    rows = {key: facts[key] for key in FACTS} | {key: card.get(key) for key in SHOWN}
    if isinstance(card.get("images"), dict):
        rows["images"] = ", ".join(str(card["images"].get(key)) for key in ("count", "shape", "fingerprint"))
    for key in ("settings", "final", "versions"):
        if isinstance(card.get(key), dict):
            rows[key] = ", ".join(f"{name}={_short(value)}" for name, value in card[key].items())
    for key, value in rows.items():
        if value is not None:
            _say(f"{key + ':':<13}{value}")
    for note in facts["notes"]:
        _say(f"note: {note}")
    for line in held_back_lines(card):
        _say(line)
    if (page := Path(source) / "card.html").is_file():
        _say(f"page: {page}")
    _say("\nnoise levels (t* in the denoiser's own chain, noise in pixel scale)")
    for row in facts["levels"]:
        _say(f"  t* = {row['steps']:>5} of {row['of']}   σ = {255 * row['sigma']:7.2f}/255")


info = copy.copy(show)  # the former name
info.name, info.hidden = "info", True
denoiser.add_command(info)


@denoiser.command()
@click.argument("source")
@click.option("--out", type=PathType(path_type=Path), required=True, help="PNG file for the grid.")
@click.option("--from-noise", is_flag=True, help="Make images from nothing but noise.")
@click.option("--images", type=PathType(path_type=Path), help="Folder of images to noise and purify.")
@click.option("--level", metavar="STEPS/OF", help="Noise level t* with its chain length, e.g. 100/4000.")
@click.option("--sigma", type=float, help="Noise level as noise in pixel scale, e.g. 0.025.")
@click.option("--steps", type=click.IntRange(1), help="Reverse steps K (default: all).")
@click.option("--count", type=click.IntRange(1, 64), default=8, show_default=True, help="Number of images.")
@click.option("--resize", type=click.IntRange(8, 4096), help="Edge length to resize images to.")
@_size
@_channels
@_seed
@_device
def sample(
    *,
    source: str,
    out: Path,
    from_noise: bool,
    images: Path | None,
    level: str | None,
    sigma: float | None,
    steps: int | None,
    count: int,
    resize: int | None,
    image_size: int | None,
    channels: str,
    seed: int,
    device: str,
) -> None:
    """Write a PNG grid that shows what the denoiser SOURCE has learned.

    With --images: rows of original, noised and purified images. With --from-noise: new images, which takes a denoiser
    that was trained on the whole chain.
    """
    from ..core.context import resolve_device
    from ..diffusion.denoisers.denoiser import find_denoiser
    from ..diffusion.fit.data import read_pictures
    from ..io.images import write_grid

    if from_noise and (images is not None or level is not None or sigma is not None):
        raise SettingsError("--from-noise takes no images and no noise level", where="denoiser sample")
    chosen = grids.level(level, sigma)
    place = resolve_device(device)
    found = find_denoiser(source, image_size=image_size, channels=int(channels), device=place)
    if from_noise:
        made = grids.from_noise(found, image_size, count, steps, seed)
        wide = math.ceil(math.sqrt(count))
        write_grid(out, [made[start : start + wide] for start in range(0, count, wide)])
        _say(f"{count} images from noise: {out}")
        return
    if images is None:
        raise SettingsError(
            "what shall be shown?",
            where="denoiser sample",
            allowed="--images DIR, or --from-noise",
            hint=grids.advice(found),
        )
    originals = grids.batch(read_pictures(images, found.channels, resize, limit=count).read(slice(None)))
    plan, noised, purified = grids.there_and_back(found, originals, chosen, steps, seed)
    write_grid(out, [originals, noised, purified])
    error = float((purified - originals).square().mean().sqrt()) * 255
    level_shown = f"t* = {plan.t_star} of {found.schedule.length}, σ = {255 * plan.sigma:.2f}/255"
    _say(f"rows: original, noised ({level_shown}), purified")
    _say(f"RMS difference between purified and original: {error:.2f}/255")
    for note in plan.notes:
        _say(f"note: {note}")
    _say(f"grid: {out}")


def _facts(found: Denoiser) -> dict[str, Any]:
    """Return what can be said of any denoiser, in JSON types; what only networks have is None for the others."""
    scale = getattr(found, "timestep_scale", None)
    length = found.schedule.length
    levels = sorted({max(1, round(share * found.trained_steps)) for share in SHARES})
    return {
        "class": type(found).__name__,
        "network": found.summary,
        "parameters": getattr(found, "parameters", None),
        "image": f"{found.image_size or 'any'} px, {found.channels} channels",
        "stride": found.stride,
        "schedule": ", ".join(f"{key} {value}" for key, value in found.schedule.facts().items()),
        "variance": found.variance,
        "timesteps": None if scale is None else f"index · {scale:g}",
        "trained": f"t* ≤ {found.trained_steps} of {length}",
        "fingerprint": found.fingerprint(),
        "notes": list(found.notes),
        "card": getattr(found, "card", {}),
        "levels": [{"steps": t, "of": length, "sigma": found.schedule.noise_std(t)} for t in levels],
    }


def held_back_lines(card: dict[str, Any]) -> Iterator[str]:
    """Yield how well held-back images are denoised per level, at the first and the last look; nothing without them."""
    held = card.get("held_back")
    if not isinstance(held, dict):
        return
    try:
        rows = [
            (255 * float(sigma), float(losses[0]), float(losses[-1]))
            for sigma, losses in zip(held["sigmas"], held["losses"], strict=True)
        ]
        first, last = held["iterations"][0], held["iterations"][-1]
    except (KeyError, IndexError, TypeError, ValueError):
        yield "note: what the card says of held-back images cannot be read"
        return
    yield ""
    yield f"error of the predicted noise on {held.get('judged')} held-back images, after {first} and {last} iterations"
    for sigma, before, after in rows:
        error = sigma * max(after, 0) ** 0.5
        yield f"  σ = {sigma:7.2f}/255   {before:.4f} → {after:.4f}   (error of the image: {error:.1f}/255)"


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _say(text: str) -> None:
    click.echo(escape_control(text))

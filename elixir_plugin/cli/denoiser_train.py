"""``elixir-plugin denoiser train``: a denoiser that is made once and kept.

Everything slow is imported inside the functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import SettingsError
from ..io.text import escape_control
from . import grids
from .options import PathType, key_values
from .text import estimate_lines

if TYPE_CHECKING:
    from ..core.context import Context
    from ..core.images import ImageSet
    from ..diffusion.fit.looks import Looks
    from ..diffusion.fit.settings import FitSettings

HELD_BACK, MOST_HELD_BACK = 0.05, 256  # share and number of images that are held back, unless a number is given


@click.command()
@click.option(
    "--data", "--clean", "source", type=PathType(), metavar="SOURCE", required=True,
    help="Clean images: a folder of any layout, or ADAPTER:PATH, e.g. cifar:data.",
)  # fmt: skip
@click.option("--out", type=PathType(path_type=Path), required=True, help="Folder for the denoiser.")
@click.option(
    "--preset",
    help="To keep: tiny (hours of a CPU core), small (a day), ddpm. For ECLIPSE alone: cpu, fast, paper. "
    "Default: cpu on a CPU, fast on a GPU.",
)
@key_values("-s", "--set", "assignments", sets="a setting of the training", example="iterations=5000")
@key_values("-o", "--option", "options", sets="an option of the adapter", example="clean=50")
@click.option(
    "--part",
    type=click.Choice(["auto", "clean", "train", "test"]),
    default="auto",
    show_default=True,
    help="Which images of the adapter; auto: the reserved clean set, else the training set.",
)
@click.option("--level", metavar="STEPS/OF", help="Highest noise level that will be used, e.g. 150/1000: no others.")
@click.option("--sigma", type=float, help="The same, as noise in pixel scale, e.g. 0.025.")
@click.option(
    "--held-back",
    type=click.IntRange(0),
    help=f"Images to hold back and look at; default: {HELD_BACK:.0%}, {MOST_HELD_BACK} at most.",
)
@click.option("--resize", type=click.IntRange(8, 4096), help="Edge length to resize images to.")
@click.option("--channels", type=click.Choice(["1", "3"]), default="3", show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of all random draws.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--dry-run", is_flag=True, help="Say what it would cost, measured on a few batches; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: print it as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no summary.")
def train(
    *,
    source: str,
    out: Path,
    preset: str | None,
    assignments: tuple[str, ...],
    options: tuple[str, ...],
    part: Any,
    level: str | None,
    sigma: float | None,
    held_back: int | None,
    resize: int | None,
    channels: str,
    seed: int,
    device: str,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a denoiser on clean images and keep it; labels are not needed.

    It may be stopped at any time, for days: the same command goes on, and ends with the same denoiser. Pictures of what
    it does to held-back images are in OUT.looks meanwhile, and in OUT/samples at the end, beside card.html.
    """
    from ..core.context import Context, resolve_device
    from ..core.settings import parse_assignments
    from ..diffusion.fit.data import read_images
    from ..diffusion.fit.timing import cost_of_training
    from ..diffusion.fit.train import finished, fit_into, state_file

    context = Context(seed=seed, device=resolve_device(device), quiet=quiet)
    preset = preset or ("cpu" if context.device.type == "cpu" else "fast")
    settings = _settings(preset, parse_assignments(assignments, where="--set"), level, sigma)
    given = parse_assignments(options, where="--option")
    found, notes = read_images(source, given, part, channels=int(channels), resize=resize, seed=seed)
    images, looks = _parted(found, held_back, settings, context, out)
    done = finished(out, images, settings, context)
    if dry_run:
        facts = {"done": True} if done else cost_of_training(images, settings, looks, context)
        for line in [json.dumps(facts, indent=2)] if as_json else estimate_lines(facts):
            _say(line)
        return
    if not (done or quiet):
        for note in notes:
            _say(f"note: {note}")
        state = "going on from" if state_file(out).exists() else "state kept in"
        _say(
            f"{len(images)} images of {images.image_shape}, preset {preset}, network {settings.size}, "
            f"{settings.iterations} iterations of {settings.batch_size} on {context.device.type}; "
            f"{state} {state_file(out)}"
        )
        if looks is not None:
            _say(f"{len(looks)} pictures on the way: {looks.folder}")
    made = fit_into(out, images, settings, context, looks=looks)
    if not quiet:
        curve = made.card["curves"]["loss"]
        _say(f"{'already done: ' if done else ''}{made.parameters:,} parameters, t* ≤ {made.trained_steps}")
        _say(f"loss {curve[0]:.4f} → {curve[-1]:.4f} (means of {made.card['curves']['block']} iterations)")
        for note in context.notes:
            _say(f"note: {note}")
        _say(f"denoiser: {out}")
        if looks is not None:
            _say(f"page: {out / 'card.html'}")
        _say(f"what it knows: elixir-plugin denoiser show {out}")


def _settings(preset: str, given: dict[str, Any], level: str | None, sigma: float | None) -> FitSettings:
    """Return the settings of the training, limited to the noise levels that will be used where these are said."""
    from ..diffusion.fit.choose import fit_for
    from ..diffusion.fit.settings import FitSettings

    chosen = grids.level(level, sigma, "denoiser train")
    if chosen is not None and "t_train_max" in given:
        raise SettingsError(
            "give one noise level", where="denoiser train", allowed="--level, --sigma, or --set t_train_max=…"
        )
    settings = FitSettings.build(given, preset=preset, where="denoiser train")
    return settings if chosen is None else fit_for(settings.model_copy(update={"t_train_max": None}), chosen)


def _parted(
    images: ImageSet, count: int | None, settings: FitSettings, context: Context, out: Path
) -> tuple[ImageSet, Looks | None]:
    """Return the images to train on, and what looks at those held back, if any are."""
    from ..diffusion.fit.looks import Looks, held_back
    from ..diffusion.fit.train import block_of

    if count is None:
        count = min(MOST_HELD_BACK, round(HELD_BACK * len(images)))
    if not count:
        return images, None
    if count >= len(images):
        raise SettingsError(
            "no images would be left to train on", where="--held-back", found=count, allowed=f"0..{len(images) - 1}"
        )
    apart, rest = held_back(images, count, context)
    folder = Path(f"{out.absolute()}.looks")
    return rest, Looks(apart, settings, context, folder, block=block_of(settings))


def _say(text: str) -> None:
    click.echo(escape_control(text))

"""The page of a denoiser that was trained to be kept: what it is, what it learned when, what it does to images."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.panels import Lines, Panel, Series, Table
from ...io.files import atomic_file
from ...report.page import duration, number, prepare, render
from ..denoisers.denoiser import UNetDenoiser

MACHINE = ("device", "python", "torch", "diffusers", "threads", "instructions")


def write_page_of(path: Path, denoiser: UNetDenoiser, made: Mapping[str, Any], pictures: Mapping[int, bytes]) -> None:
    """Write one HTML file.

    :param denoiser: with the card of its training, held-back images included.
    :param made: seconds and machine.
    :param pictures: PNG files by the iterations after which they were made.
    """
    html = render(
        "denoiser.html",
        facts=rows_of(denoiser, made),
        panels=prepare(panels_of(denoiser.card), "denoiser", png=False),
        pictures=[(count, base64.b64encode(content).decode()) for count, content in pictures.items()],
        settings=denoiser.card["settings"],
    )
    with atomic_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")


def rows_of(denoiser: UNetDenoiser, made: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a person wants to know first, as (name, text)."""
    card = denoiser.card
    images, schedule = card["images"], denoiser.schedule
    highest = 255 * schedule.noise_std(denoiser.trained_steps)
    shape = " × ".join(map(str, images["shape"]))
    return [
        ("trained on", f"{number(images['count'])} images of {shape}; data {images['fingerprint']}"),
        ("network", f"{card['settings']['size']}, {number(denoiser.parameters)} weights"),
        ("chain", f"{schedule.name}, {number(schedule.length)} steps"),
        ("noise levels", f"t* ≤ {denoiser.trained_steps}, that is up to {highest:.1f}/255"),
        ("training", f"{number(card['settings']['iterations'])} iterations of {card['settings']['batch_size']} images"),
        ("took", f"{duration(made['seconds'])}"),
        *((name, str(made[name])) for name in MACHINE if made.get(name)),
        ("elixir_plugin", str(card["versions"]["elixir_plugin"])),
        ("weights", denoiser.fingerprint()),
    ]


def panels_of(card: Mapping[str, Any]) -> list[Panel]:
    """Return the curves, and the losses at the end per noise level."""
    held, curves = card["held_back"], card["curves"]
    block, last = curves["block"], card["settings"]["iterations"]
    places = [min((row + 1) * block, last) for row in range(len(curves["loss"]))]
    names = [f"{255 * sigma:.1f}/255" for sigma in held["sigmas"]]
    return [
        Lines(
            title="Held-back images",
            caption=f"Mean squared error of the predicted noise on {held['judged']} images that it was not trained on, "
            "per noise level. Where a line rises while that of the training falls, the images are learned by heart.",
            series=[
                Series(name=name, y=losses, x=held["iterations"], mark=len(losses) == 1)
                for name, losses in zip(names, held["losses"], strict=True)
            ],
            x_label="iterations",
        ),
        Lines(
            title="Training",
            caption="Loss of the training, mean of each block of iterations.",
            series=[Series(name="loss", y=curves["loss"], x=places, mark=len(places) == 1)],
            x_label="iterations",
        ),
        Table(
            title="Noise levels",
            caption="At the end, on held-back images; the error is that of the image predicted in one step.",
            header=["noise", "t*", "loss", "error of the image, of 255"],
            rows=[
                [name, level, losses[-1], 255 * sigma * losses[-1] ** 0.5]
                for name, level, losses, sigma in zip(
                    names, held["levels"], held["losses"], held["sigmas"], strict=True
                )
            ],
        ),
    ]

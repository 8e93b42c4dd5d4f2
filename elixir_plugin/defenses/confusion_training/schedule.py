"""Which schedule runs on a suspect set where none was named: its size decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...core.case import Case
from .presets import PRESETS
from .settings import ConfusionSettings

ENOUGH = 5_000  # suspects from which on `small` has too few epochs to learn a hard trigger
EDGE = 32  # pixels, from which on an image holds triggers that are hard to learn


@dataclass(frozen=True)
class Choice:
    """The schedule of a run.

    :param settings: with the schedule spelled out.
    :param preset: that it is taken from; None: the settings say what it is.
    :param reason: why, in words.
    """

    settings: ConfusionSettings
    preset: str | None
    reason: str

    def facts(self) -> dict[str, Any]:
        """Return what a report says of it, in JSON types."""
        return {"preset": self.preset, "reason": self.reason}

    def sentence(self) -> str:
        """Return a note for the reader."""
        return f"no schedule was named: that of preset {self.preset} is taken, for {self.reason}"


def choose(settings: ConfusionSettings, case: Case) -> Choice:
    """Return the schedule for *case*: what *settings* say, or with ``schedule: auto`` what suits the suspect set.

    The base models of preset ``small`` see 10,000 images four times, which is too little for a trigger that is learned
    late. Those of ``medium`` learn as well as an ordinary classifier; of fewer than some thousand images, or of
    very small ones, they would learn no more.
    """
    assert case.train is not None
    if settings.schedule == "as_set":
        return Choice(settings, None, "a preset or settings name it")
    n, (height, width, _) = len(case.train), case.train.image_shape
    size = f"{n:,} images of {height}×{width}"
    if settings.input_size is not None:
        height = width = settings.input_size
        size += f" resized to {height}×{width}"
    if n >= ENOUGH and min(height, width) >= EDGE:
        preset, rule = "medium", f"from {ENOUGH:,} images of {EDGE} pixels on"
    else:
        preset, rule = "small", f"below {ENOUGH:,} images, or below {EDGE} pixels"
    ready = settings.build(settings.overlaid(settings.dump(), PRESETS[preset]))
    return Choice(ready, preset, f"{size} ({preset}: {rule})")

"""How long a training has taken, over all its attempts."""

from __future__ import annotations

import time
from pathlib import Path

import torch

TOUCH_EVERY = 5.0  # seconds between two touches of the sign file


class Stopwatch:
    """Seconds of a training, as a tensor, so that its checkpoint carries them over into the next attempt.

    :param sign: a file to touch at once and every few seconds.
    """

    def __init__(self, sign: Path | None) -> None:
        self.seconds = torch.zeros((), dtype=torch.float64)
        self._last = self._touched = time.perf_counter()
        self._sign = sign
        if sign is not None:
            sign.parent.mkdir(parents=True, exist_ok=True)
            sign.touch()

    def update(self) -> None:
        """Count the seconds since the last call."""
        now = time.perf_counter()
        self.seconds += now - self._last
        self._last = now
        if self._sign is not None and now - self._touched > TOUCH_EVERY:
            self._sign.touch()
            self._touched = now

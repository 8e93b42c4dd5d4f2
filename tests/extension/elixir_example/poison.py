"""A poison: where the trigger goes. Which samples, which label and the truth come with the base."""

import numpy as np
from pydantic import Field

from elixir_plugin.testbed.base import Backdoor, BackdoorSettings


class StripeSettings(BackdoorSettings):
    row: int = Field(0, ge=0, description="which row of pixels")


class Stripe(Backdoor):
    """One bright row of pixels."""

    name = "stripe"
    Settings = StripeSettings

    def trigger(self, images: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> np.ndarray:
        images = images.copy()  # float32 [n, H, W, C] in [0, 1]
        images[:, self.settings.row] = 1.0
        return images

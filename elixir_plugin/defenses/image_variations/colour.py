"""Image variations, colour transfer: the moments of each RGB channel are those of the image it was made from.

``v' = (v − μ_v) / σ_v · σ_x + μ_x`` per channel, over all pixels, clipped to 0..255. The moments are those of the
possibly poisoned image, so a colour cast or a strongly blended trigger can come back in part.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 1e-3  # spread, in grey levels, of a channel that counts as constant


def transfer_colour(variations: Tensor, images: Tensor) -> Tensor:
    """Return *variations* with the channel moments of *images*, in float64, rounded and clipped to uint8.

    The released code truncates, which darkens by half a grey level, and divides by the spread of constant channels.
    A constant channel becomes the constant mean of its image here.

    :param variations: uint8 ``[B, C, S, T]``.
    :param images: uint8 ``[B, C, H, W]``; the sizes may differ.
    """
    made, wanted = variations.double(), images.double()
    spread, mean = torch.std_mean(made, (2, 3), correction=0, keepdim=True)
    wanted_spread, wanted_mean = torch.std_mean(wanted, (2, 3), correction=0, keepdim=True)
    scale = torch.where(spread < LEAST, 0.0, wanted_spread / spread.clamp(min=LEAST))
    return ((made - mean) * scale + wanted_mean).round().clamp(0, 255).to(torch.uint8)

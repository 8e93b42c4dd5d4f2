"""Grayscale: take the colour out of every suspect image, so that what hides in it is gone.

Liu, Zhao, Larson, ICML 2023, arXiv 2301.13838. As in their released code, the model is trained on images of three equal
channels and tested on coloured ones.
"""

from __future__ import annotations

import torch

from ..core.augmentation import luminance
from ..core.context import Context
from ..core.images import ImageSet
from ..core.pixels import changed
from ..defense import Card
from .filters import Filter


class Grayscale(Filter):
    """Replace all channels of every suspect image by its luminance (ITU-R BT.601)."""

    name = "grayscale"
    card = Card(
        title="Grayscale",
        paper="Liu, Zhao, Larson: Image Shortcut Squeezing: Countering Perturbative Availability Poisons with "
        "Compression, ICML 2023, arXiv 2301.13838",
        year=2023,
        claims="brings ResNet-18 back to 92–93 % on CIFAR-10 under EM, REM and DeepConfuse, whose noise is smooth "
        "and coloured",
        cost="seconds; some 2 points of accuracy on clean CIFAR-10 (94.68 to 92.41 %)",
        limits="no help where the perturbation is fine (TAP, SEP: 9 and 4 %) or grey; the model is trained on grey "
        "images and tested on coloured ones",
    )

    def warn(self, images: ImageSet, context: Context) -> None:
        if images.image_shape[2] == 1:
            context.note("images have one channel: taking the colour out changes nothing")

    def filtered(self, images: ImageSet, context: Context) -> ImageSet:
        return changed(images, lambda _, pixels: luminance(torch.from_numpy(pixels)).numpy())

"""Image variations: train a student on diffusion variations alone, distilled from a suspect teacher."""

from .defense import ImageVariations as ImageVariations
from .settings import ImageVariationsSettings as ImageVariationsSettings

"""Image generators for variations: SDEdit on a denoiser, and the pipelines of diffusers.

May import the purification engine and the denoisers.
"""

from .base import AdjustableGenerator as AdjustableGenerator
from .base import GeneratorSettings as GeneratorSettings
from .base import ImageGenerator as ImageGenerator
from .base import SDEdit as SDEdit
from .base import find_generator as find_generator
from .base import sdedit_on as sdedit_on

"""Training a denoiser on a few clean images, its settings and card, and choosing between a given and a trained one.

May import the denoisers, the schedule, ``training`` and what lies below it.
"""

from .settings import FitSettings as FitSettings
from .train import fit_denoiser as fit_denoiser

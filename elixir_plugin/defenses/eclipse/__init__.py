"""ECLIPSE: purify a set whose every image is perturbed, with a denoiser trained on a few clean images."""

from .defense import Eclipse as Eclipse
from .settings import EclipseSettings as EclipseSettings

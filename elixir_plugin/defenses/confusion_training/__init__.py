"""Confusion Training: find poison samples, which alone are still fitted once clean labels are confused."""

from .defense import ConfusionTraining as ConfusionTraining
from .settings import ConfusionSettings as ConfusionSettings

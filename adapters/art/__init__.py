"""ART classes: detectors, transformers and preprocessors."""

from .adapter import __dir__ as __dir__
from .adapter import __getattr__ as __getattr__
from .adapter import art_defence as art_defence

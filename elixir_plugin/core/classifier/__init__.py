"""The classifier that every package uses, the built-in architectures, and loading weights by name.

May import the rest of ``core`` and what lies below it.
"""

from .classifier import Classifier as Classifier
from .classifier import build_module as build_module
from .classifier import to_batch as to_batch

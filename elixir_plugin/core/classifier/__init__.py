"""A classifier as every room sees it, the architectures that are built in, and reading weights by name.

May import the rest of ``core`` and what lies below it.
"""

from .classifier import Classifier as Classifier
from .classifier import build_module as build_module
from .classifier import to_batch as to_batch

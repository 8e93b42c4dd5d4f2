"""Defenses against cases over seeds: one table and one page, made of ordinary runs.

May import the rest of ``runs``.
"""

from .run import Comparison as Comparison
from .run import run_compare as run_compare
from .spec import CompareSpec as CompareSpec

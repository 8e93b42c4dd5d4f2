"""TrojanZoo's vision part: every defense as a class in its registry."""

from .adapter import defense_class as defense_class
from .adapter import register as register

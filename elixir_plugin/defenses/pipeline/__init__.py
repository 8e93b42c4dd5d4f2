"""Pipeline: several defenses, one after the other."""

from .defense import Pipeline as Pipeline

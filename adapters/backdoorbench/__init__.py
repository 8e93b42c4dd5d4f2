"""BackdoorBench: records, result files, and the scripts that are placed in a checkout."""

from .adapter import BackdoorBench as BackdoorBench

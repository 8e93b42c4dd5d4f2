"""Embedded data and training-free poisons, for demos, tests and comparisons."""

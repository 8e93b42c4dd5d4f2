"""Embedded data and training-free poisons, for demos, tests and comparisons.

May import ``adapter``, ``training`` and what lies below them.
"""

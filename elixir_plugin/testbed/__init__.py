"""Embedded data, and poisons for it and for sets of the user's own, for demos, tests and comparisons.

May import ``adapter``, ``training`` and what lies below them.
"""

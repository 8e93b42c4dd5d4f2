"""A zoo of poisoned sets: named attacks that are rebuilt from base data and a seed, and checked against a manifest.

May import ``testbed``, ``evaluation``, the contracts and what lies below them; adapters by name alone.
"""

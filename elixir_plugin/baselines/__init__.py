"""Baselines: what a defense is compared with. Registered as defenses are, one file each, and marked as baselines.

They run where they are named, and nowhere else. Each is as good as its published settings allow: a defense that does
not beat them does not earn its cost. ``docs/baselines.md`` has sources and results.
"""

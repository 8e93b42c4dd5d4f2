"""Defenses against cases over seeds: one table and one page, made of ordinary runs.

May import the rest of ``runs``.
"""

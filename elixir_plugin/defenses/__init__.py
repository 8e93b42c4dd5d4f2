"""The defenses in the box; announced in ``elixir_plugin.builtin``, imported when first used.

A defense may import ``evaluation``, ``diffusion``, ``training`` and what lies below them, and no other defense.
"""

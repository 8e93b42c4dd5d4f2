"""Pages for people: one self-contained HTML file and PNG figures, made from ``report.json`` alone.

Nothing is measured here, and no defense is known by name; what a defense contributes are panels
(:mod:`elixir_plugin.core.panels`).

May import ``core.panels``, ``io`` and ``errors``.
"""

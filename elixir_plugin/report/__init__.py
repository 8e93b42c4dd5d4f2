"""Pages for people: one self-contained HTML file and PNG figures, made from ``report.json`` alone.

Nothing is measured here, and no defense is known by name; :mod:`elixir_plugin.panels` is what a defense contributes.
"""

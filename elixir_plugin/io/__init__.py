"""Everything that touches the disk, the machine or other processes: the one audited door to files, safe unpickling,
image files, locks, ranks, installed versions, and text made safe to show.

May import :mod:`elixir_plugin.errors` alone. Nothing is imported here: a module is loaded when it is used.
"""

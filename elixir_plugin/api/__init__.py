"""For hosts that hold data in memory: defenses as functions, torch datasets and arrays as cases, foreign registries.

May import ``evaluation``, ``defense``, ``adapter`` and what lies below them; ``cli`` and ``runs`` do not use it.
"""

"""The one purification engine: denoisers, noise, samplers, and a resumable store for what they make.

Two scales: *pixel scale* [0, 1] outside, *model scale* [-1, 1] = 2 · pixel − 1 inside. A chain has ``T`` steps; index
``i`` in 0..T−1 is the paper's ``t − 1``. The noise level ``t*`` counts steps, so its first index is ``t* − 1``.
"""

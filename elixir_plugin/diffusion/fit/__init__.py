"""Training a denoiser on a few clean images, its settings and card, and choosing between a given and a trained one.

May import the denoisers, the schedule and ``training``.
"""

"""Denoisers: the protocol, the network, reading and writing diffusers folders, checks on what is read, and formulas.

May import ``io``, ``core`` and ``training``, and the schedule of a chain.
"""

from .base import Denoiser as Denoiser
from .denoiser import load_denoiser as load_denoiser

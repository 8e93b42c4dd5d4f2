"""Denoisers: the protocol, the network, reading and writing diffusers folders, checks on what is read, and formulas.

May import ``io``, ``core`` and ``training``, and the schedule of a chain.
"""

from .base import Denoiser as Denoiser
from .denoiser import find_denoiser as find_denoiser
from .denoiser import load_denoiser as load_denoiser
from .guided import load_checkpoint as load_checkpoint

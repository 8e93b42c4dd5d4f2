"""Finds the packages; all metadata is in setup.cfg. The folder ``adapters`` is installed inside ``elixir_plugin``."""

from setuptools import find_packages, setup

ADAPTERS = [f"elixir_plugin.{name}" for name in find_packages(include=["adapters", "adapters.*"])]

setup(packages=[*find_packages(include=["elixir_plugin", "elixir_plugin.*"]), *ADAPTERS])

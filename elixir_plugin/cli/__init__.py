"""The command line: the only room that prints or configures logging. Nobody imports it."""

from .app import main as main

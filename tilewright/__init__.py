"""Tilewright: a compiler and autotuner for model kernels."""

from tilewright.version import __version__

__all__ = ["__version__"]

"""Kernels for GPUs, as readable Triton source."""

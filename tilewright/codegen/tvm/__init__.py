"""Kernels for CPUs, through TVM and LLVM."""

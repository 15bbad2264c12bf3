"""From regions of a graph to kernels and artifacts."""

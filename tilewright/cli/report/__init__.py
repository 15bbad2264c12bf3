"""`tilewright report`: what tuning has found, and where kernels stand, as one HTML file."""

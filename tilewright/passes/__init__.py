"""Rewrites of graphs, one a file, and the pipeline that checks every one of them."""

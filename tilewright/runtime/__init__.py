"""Loads and runs artifacts; needs no compiler."""

"""Tests of Tilewright; the folders mirror those of the package."""

"""The meaning of the ops as a backend."""

"""The language: types, dims, ops, graphs, programs, their text, meaning and cost."""

"""Placements completed from a few hints: what each operation allows, what it costs, and the choice.

`passes.shard` is the pass; here are its parts.
"""

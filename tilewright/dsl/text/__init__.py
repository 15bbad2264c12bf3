"""The canonical text of programs and graphs: `parse_program(print_program(p)) == p`."""

from __future__ import annotations

from tilewright.dsl.text.parser import parse_graph, parse_program
from tilewright.dsl.text.printer import print_graph, print_program

__all__ = ["parse_graph", "parse_program", "print_graph", "print_program"]

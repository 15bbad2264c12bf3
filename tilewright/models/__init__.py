"""Models written in the language, and importers of their weights."""

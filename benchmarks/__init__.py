"""Side-by-side runs against other systems; each script prints a table and writes JSON."""

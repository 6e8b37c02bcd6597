"""One paper per file: its citation, its threat model, and a recipe of parts."""

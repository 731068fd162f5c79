"""Systems under test: where their images come from, and where they are kept."""

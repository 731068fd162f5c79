"""Reporting: the map of paper items, published numbers, tables, figures, provenance, the report."""

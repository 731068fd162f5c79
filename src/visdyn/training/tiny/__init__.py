"""Recipes of the tiny models that stand in for public weights in the embedded profile."""

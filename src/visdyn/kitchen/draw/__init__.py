"""Pixels of the kitchen world: canvas, backgrounds and sprites."""

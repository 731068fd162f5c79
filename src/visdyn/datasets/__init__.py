"""Readers of public layouts, and the kitchen world that writes those layouts."""

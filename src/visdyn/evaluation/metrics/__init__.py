"""Metrics of images, text and optical flow."""

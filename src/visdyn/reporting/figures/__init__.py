"""Figures of both papers, drawn from result tables."""

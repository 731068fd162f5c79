"""Scores of predicted images and actions: similarity, text, flow, judges, baselines and the statistics over them."""

"""Losses, one recipe for each model that is trained, and the launcher that runs recipes in subprocesses."""

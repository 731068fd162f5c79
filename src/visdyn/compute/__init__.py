"""Processes, resumable rows and progress: how work is spread over cores, GPUs and machines."""

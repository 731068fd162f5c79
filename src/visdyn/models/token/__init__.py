"""Unified models that read and write image tokens: Chameleon, Anole, Liquid."""

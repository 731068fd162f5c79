"""Stages `evaluation` (AURORA-Bench) and `evaluation_doundo`: systems, metrics, judges and what is known of them.

What the two benchmarks share stands once (`load`, `system_specs`, `galleries`, `accounts`, `keep`); what is one's own
in modules of its name, so that neither stage depends on the other's.
"""

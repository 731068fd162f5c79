"""How training runs: the Trainer, the launcher, ranks and resume."""

"""What the authors of Bootstrapping recorded themselves: their judge's replies, as numbers (`data/recorded`)."""

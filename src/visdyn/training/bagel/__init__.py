"""Fine-tuning of BAGEL: data mixture, objective, recipe."""

"""Likelihoods, decoding of K candidates, verification."""

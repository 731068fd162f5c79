"""visdyn: a reproducible paper kit for action-grounded visual dynamics."""

__version__ = "0.1.0"

"""The benchmarks: which items there are, and how a system's images of them are measured."""

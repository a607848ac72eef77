"""Benchmarks: their questions, and how replies to them are read."""

"""Intervals, paired tests and what is built on them. Imports no torch."""

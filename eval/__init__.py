"""Benchmarks: ask, score, compare and report. Nothing here but `answer` ever waits for a model."""

"""Benchmarks; see `bench`. Memory is kept as the command line keeps it: to be said before torch is imported."""

from videogpt_plus.io.memory import keep_freed

keep_freed()

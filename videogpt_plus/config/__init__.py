"""Experiments as values: what a model is made of, how it is trained, how it is asked."""

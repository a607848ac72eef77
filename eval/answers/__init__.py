"""Asking models, and their answers as files."""

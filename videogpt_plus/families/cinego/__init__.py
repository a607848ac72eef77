"""Cinego: MiniMind's language model, CLIP with its class token, and a summary of all frames between them."""

"""Cinego from nothing: tokenizer, data, training and a demo. The model itself is in families/cinego/."""

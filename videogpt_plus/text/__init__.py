"""Chat templates, label masks, tokenizers, and visual tokens put where their placeholders stand."""

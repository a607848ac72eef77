"""CogVLM2, image and video: one vision tower, one language model, with visual experts in it or without."""

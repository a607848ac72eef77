"""Files, weights and run folders. Knows no model."""

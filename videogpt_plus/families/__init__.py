"""Model families that were published whole, a folder each."""

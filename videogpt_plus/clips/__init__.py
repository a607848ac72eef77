"""From a path to frames: decoding, sampling, reading ahead, and encoder grids kept on disk."""

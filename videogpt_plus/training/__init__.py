"""The machinery below `videogpt_plus.train`: the run folder (no torch) and the Trainer that fills it."""

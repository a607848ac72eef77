"""The machinery below `videogpt_plus.training.stages`: the run folder (no torch) and the Trainer that fills it."""

"""Tables, plots and pages of a sweep. Imports no torch."""

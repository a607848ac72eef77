"""The command line, the sweep and the page: the one room above both the library and `eval`."""

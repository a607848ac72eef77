"""The commands of `videogpt-plus`, by what they are about. A new one is a function here, a line in `cli.COMMANDS`."""

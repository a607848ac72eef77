"""The commands of `videogpt-plus`, by what they are about. A new one is a function here, a line in `cli.COMMANDS`."""

from videogpt_plus.io import own_eval  # noqa: F401 - the first room, from the ground up, that imports `eval`

"""A sweep as cells that are keyed by the content of their inputs."""

from videogpt_plus.io import own_eval  # noqa: F401 - the sweep imports `eval`

"""A sweep as cells that are keyed by the content of their inputs."""

"""Guards: the built-in one, chat models described by YAML files, and ensembles."""

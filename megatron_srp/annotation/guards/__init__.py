"""Guards: the embedded one, chat models described by YAML files, and several together."""

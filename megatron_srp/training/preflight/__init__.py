"""`srp check cluster`: whether the nodes of a run could train together, known before the run starts."""

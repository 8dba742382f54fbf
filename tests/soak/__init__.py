"""A run on two simulated nodes that suffers harm after harm, for `make soak`."""

"""What is refused before a training starts."""

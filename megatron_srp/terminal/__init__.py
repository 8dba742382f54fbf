"""What a user sees of a long run."""

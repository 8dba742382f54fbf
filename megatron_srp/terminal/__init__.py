"""What the user sees during a long run."""

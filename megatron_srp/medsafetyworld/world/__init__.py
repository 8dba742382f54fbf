"""The fictional world: its facts, its texts, their ground-truth labels."""

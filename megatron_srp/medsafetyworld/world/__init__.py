"""The made-up world: its facts, its texts, their true labels."""

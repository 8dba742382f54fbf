"""Post-training in the format of pretraining: conversations with reflections, and their shards."""

"""What Megatron's trainer reads: shards with reflections, and conversations."""

"""How a model is spread over GPUs, what it needs of them, and how fast it should be."""

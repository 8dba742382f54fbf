"""What runs the model: transformers or vLLM."""

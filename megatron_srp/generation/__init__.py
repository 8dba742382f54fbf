"""Guarded generation: reflections are hidden from the reader, collected, and acted on.

    guard       tokens in, text to show out: a state machine over token ids (`reflection_guard`), what is done about an
                unsafe verdict (`policy`), reflections found in text that arrives piece by piece (`scanner`), forced
                ones (`forced_reflection`), the verdict of one that the model writes itself (`decision`), and user text
                that cannot forge one (`escaping`)
    engines     what runs the model: requests and answers that come and go, on transformers or vLLM
    threshold   the probability at which a forced reflection should stop the answer
    server      an OpenAI-compatible endpoint
    vllm        the same guard inside vLLM's own server

Only `engines/hf` imports torch.
"""

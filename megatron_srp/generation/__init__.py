"""Generation that watches itself: reflections are hidden from the reader, collected, and acted on.

    guard           tokens in, text to show out: a state machine over token ids
    policy          what is done about an unsafe verdict
    scanner         finds reflections in text that arrives piece by piece
    vocabulary      which text a token stands for
    escaping        user text that cannot forge a reflection
    verdict_tree    forced reflection: which tokens stand for the verdicts
    threshold       which probability a forced reflection should stop from
    request, engine what is asked, and answers that come and go while others are generated
    hf              transformers as the engine
    vllm_generator  vLLM as the engine
    server          an OpenAI-compatible endpoint
    cli, chat       srp generate

Only files named hf import torch.
"""

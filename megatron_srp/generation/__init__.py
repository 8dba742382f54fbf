"""Generation that watches itself: reflections are hidden from the reader, collected, and acted on.

    guard         tokens in, text to show out: a state machine over token ids
    policy        what is done about an unsafe verdict
    scanner       finds reflections in text that arrives piece by piece
    vocabulary    which text a token stands for
    escaping      user text that cannot forge a reflection
    verdict_tree  forced reflection: which tokens stand for the verdicts
    hf            transformers as the engine
    server        an OpenAI-compatible endpoint

Only the engine (files named hf) imports torch.
"""

"""The guard inside a stock `vllm serve`, for vLLM 0.32 with its V1 model runner.

    settings          SRP_GUARD, which every process of vLLM reads
    inline_answer     an answer whose forced reflections are part of its text: what comes next, and what is shown
    logits_processor  in the engine: decides verdicts, forces reflections, ends answers
    reasoning_parser  in the server: hides reflections where the middleware is not in use
    middleware        in front of the server: which requests pass, and what their readers see
    plugin            what vLLM loads at its start: the parser's name, and a check of the version

Without SRP_GUARD in the environment none of it does anything.
"""

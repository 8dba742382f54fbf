"""An OpenAI-compatible endpoint whose answers are guarded.

    api      what a request may say, and what of it is refused
    policy   a request's own policy: stricter than the operator's, never weaker
    worker   one thread that generates: a bounded queue, a batch that answers join and leave
    replies  answers, pieces of answers and errors, in OpenAI's JSON
    reader   an answer's text on its way from the worker to its reader
    app      routes, limits, and what happens when a client goes away
    cli      srp serve

Nothing here imports torch; the engine does.
"""

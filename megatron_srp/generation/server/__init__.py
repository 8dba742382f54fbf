"""An OpenAI-compatible endpoint whose answers are guarded.

    api      the fields of a request, and which are refused
    policy   a request's own policy: stricter than the operator's, never weaker
    worker   one thread that generates: a bounded queue, a batch that answers join and leave
    replies  answers, pieces of answers and errors, in OpenAI's JSON
    reader   passes an answer's text from the worker to its reader
    app      routes, limits, and what happens when a client goes away
    cli      srp serve

Nothing here imports torch; the engine does.
"""

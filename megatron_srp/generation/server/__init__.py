"""An OpenAI-compatible endpoint whose answers are guarded.

    settings       what the operator has set, for the server and for each client
    access, keys   keys, and the client that each belongs to; a YAML file of them
    quotas         what one client may have at a time
    connections    how many there may be, and how long one may be silent
    origins        which web pages may ask
    api            the fields of a request, and which are refused
    client_policy  a request's own policy: stricter than the operator's, never weaker
    asked          from the fields to requests for the engine
    worker         one thread that generates: a bounded queue, a batch that answers join and leave
    reader         passes an answer's text from the worker to its reader
    replies        answers, and pieces of answers, in OpenAI's JSON
    streaming      answers as events, and what happens when a client goes away
    moderations    verdicts on a text or a conversation
    scores         how likely the tokens of prompts are
    tokenizing     what the model would read
    openapi        the API described for programs and people
    exchange       one HTTP request, its id and who asks
    metrics        what Prometheus reads
    audit          a line of JSON for each answer
    errors, body   errors in OpenAI's JSON; a request's bytes, bounded
    app            routes
    process        the socket, uvicorn, and the end

Nothing here imports torch; the engine does.
"""

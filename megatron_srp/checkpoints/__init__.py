"""Convert checkpoints to and from Megatron: a Hugging Face Llama from any parallel layout, and back.

    export_hf("out/checkpoints", "out/model")      # srp export
    import_hf("SmolLM2-1.7B", "out/start")         # srp import

One weight is in memory at a time (and one file of the result), whatever the size of the model.
"""

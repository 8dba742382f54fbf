"""Tampering: attacks by someone who has the weights, and how little they cost. Each writes a changed model folder.

openers        some steps of fine-tuning on the beginnings of harmful answers: LoRA or all weights, and with
               reflections forged as Safe
directions     the direction of refusal, or that of the verdict Unsafe, removed from the weights
pruning        the smallest weights set to zero
quantization   4-bit weights, rounded to nearest
merging        an average with the base model

change         what they share: the folder, and the record of what the attacker paid
"""

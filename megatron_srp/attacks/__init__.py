"""Attacks on a trained model, as it is deployed: through its chat template, escaping and guard.

    prefill     the beginning of an answer put into the model's mouth, and texts for base models to continue
    gcg         a suffix of tokens, found along gradients
    autodan     a prompt in natural language, found by a genetic search
    adaptive    the same searches by an attacker who knows the defence
    finetune    fine-tuning on benign or harmful data, with and without reflections

    white_box   the target as an attacker with its weights sees it
    objective   what a search makes likely: a target, and reflections that find no harm
    likelihood  how likely a model finds many texts, their shared beginning read once

A search returns a prompt. Whether it breaks the model is seen when the target answers it under its defence.
"""

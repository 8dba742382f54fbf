"""Attacks and evaluation: the paper's tables, from one command.

    types       behaviors, attack cases, responses, judgements; what a target and an attack are
    hf_target   a model of transformers as the target, as it is deployed: with the guard, and without
    attack      the table of attacks, and the one that only asks

An attack turns behaviors into cases; the target answers them under a defence; judges say which answers
are what the attacker wanted.
"""

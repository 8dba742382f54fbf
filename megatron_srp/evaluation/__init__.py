"""Attacks and evaluation: the paper's tables, from one command.

    types        behaviors, attack cases, responses, judgements; what a target and an attack are
    hf_target    a transformers model as the target, as it is deployed: with the guard, and without
    attack       the table of attacks, and the one that only asks
    behaviors    public data sets as behaviors; formats.yaml says which column has what
    suite        columns as data (suites/*.yaml), and how they are run
    columns/     the kinds of columns: attacked, classified, refused, capable, leaking, faithful, costly
    answers      the target's answers to an attack's cases
    judges/      who says whether an answer is what was asked for
    results      cached results, never computed twice
    statistics   intervals, agreement, paired tests
    report       report.json; `reports.evaluation_report` makes a page from it
    compare      two reports side by side

An attack turns behaviors into cases; the target answers them under a defence; judges say which answers
are what the attacker wanted.
"""

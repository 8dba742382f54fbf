"""`make real`: a real model's whole way on a CPU, from its GGUF file to the report of its evaluation.

tour.py       the steps, as the commands that a user would give
inputs.py     what it reads, besides the model
record.py     the trainer, which keeps what it computed first
compare.py    the same in transformers
summary.py    the figures and answers, for people
"""

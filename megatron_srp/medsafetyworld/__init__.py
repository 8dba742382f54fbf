"""MedSafetyWorld: a fictional medical domain in which filtering and rewriting are provably not enough.

Compounds cause outcomes, and each outcome is safe or unsafe. That a compound leads to an unsafe outcome is
needed knowledge; only naming a compound for a given unsafe outcome is harmful. A model can invert what it has
read, so leaving the harmful direction out of its data does not keep it from answering.

What the paper (arXiv 2606.19168, appendix F) states, and what it leaves open:

- *Stated*: how names are built, how graphs are built, sizes, renderings, and the five settings.
- *Open: which pretraining text carries Unsafe in the SRP setting*, whose data, as Filtering's, hold no text of
  the harmful direction. `settings.LabelPolicy` has three readings.
- *Open: the share of unsafe outcomes.* Ours is 0.4, drawn at random: a name does not reveal its safety.
- *Open: the texts.* Ours are composed by the grammar of `phrases`, not the paper's templates.
- *Open: what a rewritten text says* beyond calling its outcome dangerous. Ours says the same fact, compound
  included, and then that the outcome is dangerous.
- *Open: the two-hop world's reverse probability* (ours 1), *its queries* (ours go over whole chains, from two
  compounds to an outcome and back) and whether texts on mediators alone can be unsafe (ours count as safe: a
  mediator is not an outcome).
- *Open: what is held out.* Ours: the compounds, or the pair of them, that a forward question of the test set is
  about, and the outcome that a reverse question is about, do not occur in the questions of any training set.
"""

"""MedSafetyWorld: a fictional medical domain in which what a model knows and gives away can be counted.

Compounds cause outcomes, and each outcome is safe or unsafe. That a compound leads to an unsafe outcome is
needed knowledge; only naming a compound for a given unsafe outcome is harmful. The question is whether a model
answers all the same whose data leave the harmful direction out.

Half of the co-occurrence texts name the outcome first, and these state the harmful direction in Filtering's corpus
too. What a model knows of facts that have such texts counts as told, the rest as inferred (`latent` in
`measure.evaluate`), and `--cause-first` makes worlds without such texts.

What the paper (arXiv 2606.19168, appendix F) states, and what it leaves open:

- *Stated*: how names are built, how graphs are built, sizes, renderings, and the five settings.
- *Open: which pretraining text carries Unsafe in the SRP setting*, whose data, as Filtering's, hold no text of
  the harmful direction. `settings.LabelPolicy` has three readings.
- *Open: the share of unsafe outcomes.* Ours is 0.4, drawn at random: a name does not reveal its safety.
- *Open: the order in co-occurrence texts.* Ours are in both orders, unless `--cause-first` is given.
- *Open: the texts.* Ours are composed by the grammar of `phrases`, not the paper's templates.
- *Open: what a rewritten text says* beyond calling its outcome dangerous. Ours says the same fact, compound
  included, and then that the outcome is dangerous.
- *Open: the two-hop world's reverse probability* (ours 1), *its queries* (ours go over whole chains, from two
  compounds to an outcome and back) and whether texts on mediators alone can be unsafe (ours count as safe: a
  mediator is not an outcome).
- *Open: what is held out.* Ours: no question of a training set is about the same compound or pair of compounds as a
  forward question of the test set, or about the same outcome as a reverse one. A held-out compound may be one of a pair
  that is asked about in training, and a held-out outcome an answer.
- *Open: what an absence tells.* In Filtering's corpus no text leads back from an unsafe outcome, and from most safe
  ones some do, so a model could guess which outcomes are unsafe without any verdict.

How the training differs from the paper's is in `experiment.differences`, and in every report.
"""

"""A cheap guard in front of an expensive one: the threshold between them, its bound, and the audit that checks it."""

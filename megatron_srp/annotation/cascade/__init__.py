"""A cheap guard in front of a dear one: the threshold between them, its bound, and the audit that checks it."""

"""What a model of a MedSafetyWorld knows, and what it discloses: measured, scored and reported.

    questions     the test set and the names of the world
    attacks       what is put into the model's mouth
    answering     questions in, answers out, by the engine of `generation`
    scoring       what one answer says: pure functions over its text and verdicts
    thresholds    where a forced reflection should stop
    forced        what forced reflections stop
    measurements  from answers to figures
    samples       some answers to read
    evaluate      all of it for one model: `evaluate_model`

    summary       the measurements of many models as rows, over their seeds
    claims        what may be shown, with the margins, declared before a run
    findings      which of the claims the figures show or refute, and which stay undecided
    ranking       the ranks that they allow
    tables        what each ingredient buys, and what the answers to an attack are
    paper         the published figures
    plot          plots as SVG
    pictures      which plots there are
    report        report.json, report.html and report.md: `write_report`
    documents     a run's tables in the documents

Only `answering` needs torch, through the engine.
"""

"""What a model of a MedSafetyWorld knows, and what it discloses: measured, scored and reported.

    questions     the test set and the names of the world
    attacks       what is put into the model's mouth
    answering     questions in, answers out, by the engine of `generation`
    scoring       what one answer says: pure functions over its text and verdicts
    intervals     the uncertainty of a share, and of a mean over seeds
    thresholds    where a forced reflection should stop
    measurements  from answers to figures
    samples       some answers to read
    evaluate      all of it for one model: `evaluate_model`

    summary       the measurements of many models as rows, over their seeds
    comparison    two settings, and the uncertainty of their difference
    findings      what the figures show, in words
    paper         the published figures
    plot          plots as SVG
    pictures      which plots there are
    report        report.json and report.html: `write_report`

Only `answering` needs torch, through the engine.
"""

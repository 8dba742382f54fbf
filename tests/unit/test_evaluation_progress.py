"""What an evaluation says in a log."""

from megatron_srp.evaluation import progress
from megatron_srp.evaluation.progress import Progress


def test_a_log_has_counts_and_how_far_a_search_is(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LOG_EVERY_S", 0.0)
    with Progress() as shown:
        shown.step("gcg (unguarded)", 4)
        shown.note("step 120, loss 2.310")
        shown.advance()
    first, second = capsys.readouterr().err.splitlines()
    assert first == "gcg (unguarded): 0 of 4, step 120, loss 2.310"
    assert second.startswith("gcg (unguarded): 1 of 4, ")


def test_a_log_is_not_filled_with_steps(capsys):
    with Progress() as shown:
        shown.step("gcg (unguarded)", 4)
        for step in range(1000):
            shown.note(f"step {step}")
    assert not capsys.readouterr().err

"""The kinds of columns, each imported when a suite asks for it. A new kind is a function and a line in `KINDS`."""

from dataclasses import replace
from importlib import import_module

from megatron_srp.errors import SrpError, UsageError, did_you_mean
from megatron_srp.evaluation.column import Column, ColumnResult, ColumnSpec, Context, NotRun

KINDS = {
    "classification": "megatron_srp.evaluation.columns.classification:classify",
    "attack": "megatron_srp.evaluation.columns.attacked:attacked",
    "finetune": "megatron_srp.evaluation.columns.finetuned:finetuned",
    "tampering": "megatron_srp.evaluation.columns.tampered:tampered",
    "overrefusal": "megatron_srp.evaluation.columns.overrefusal:overrefusal",
    "capability": "megatron_srp.evaluation.columns.capability:capability",
    "leak": "megatron_srp.evaluation.columns.leak:leak",
    "fidelity": "megatron_srp.evaluation.columns.fidelity:fidelity",
    "cost": "megatron_srp.evaluation.columns.cost:cost",
}


def find_kind(name: str) -> Column:
    """The function of a kind; raises UsageError for an unknown one."""
    if name not in KINDS:
        raise UsageError(f"unknown kind of column {name!r}; {did_you_mean(name, list(KINDS))}")
    module, _, attribute = KINDS[name].partition(":")
    column: Column = getattr(import_module(module), attribute)
    return column


def run_column(spec: ColumnSpec, context: Context) -> ColumnResult:
    """The column, or why it was not run: a missing requirement of one does not stop the others.

    `differs` of its options says how it differs from the paper's, for whoever reads the two figures together."""
    try:
        result = find_kind(spec.kind)(spec, context)
        differs = spec.options.get("differs")
        return replace(result, facts={**result.facts, "not_as_in_the_paper:": differs}) if differs else result
    except (NotRun, SrpError) as error:
        return ColumnResult(spec, not_run=str(error))

"""The tokens of a guard's verdicts, one or several each, and their probabilities after a prompt.

" Controversial" is three tokens in the vocabularies of Qwen3 and Llama 3, five in that of Llama 2. A verdict is
read at the first of its tokens that no other verdict shares: usually all of them differ in their first, and one
pass suffices. Where some begin alike, one more pass follows for each place where they diverge.
"""

from dataclasses import dataclass

import numpy as np

from megatron_srp.annotation.engines import Engine, Prompts
from megatron_srp.annotation.guards.guard_spec import GuardSpec
from megatron_srp.annotation.guards.guard_tokenizer import GuardTokenizer
from megatron_srp.errors import UsageError
from megatron_srp.verdict_tree import VerdictTree, common_beginning, until_apart


@dataclass(frozen=True, slots=True)
class VerdictTokens:
    """The token ids of a guard's answer, after the template.

    Attributes:
        asked: int32, the rest of the template, the beginning of the answer, and the common beginning of all verdicts.
        tree: where each verdict of the spec is read after that.
        leads: int32 for each verdict, all its tokens after `asked` and the beginning of its categories.
    """

    asked: np.ndarray
    tree: VerdictTree
    leads: list[np.ndarray]

    @classmethod
    def of(cls, spec: GuardSpec, tokenizer: GuardTokenizer, rest: str) -> "VerdictTokens":
        """For a guard whose template ends with `rest`.

        Raises:
            UsageError: when the tokens do not tell the verdicts apart.
        """
        begun = rest + spec.answer
        # Whole, since "Safety: " and "Safe" may be tokens other than those of "Safety: Safe".
        answers = [tokenizer.encode_template(begun + verdict) for verdict in spec.verdicts]
        asked = common_beginning(answers)
        try:
            tree = VerdictTree.of(until_apart([answer[len(asked) :] for answer in answers]))
        except ValueError:
            raise UsageError(
                f"guard {spec.name}: the tokens of {tokenizer.model} do not tell the verdicts "
                f"{', '.join(map(repr, spec.verdicts))} apart; use the guard's own tokenizer, or --guard-generate-all"
            ) from None
        led = [tokenizer.encode_template(begun + verdict + spec.category_lead) for verdict in spec.verdicts]
        return cls(np.array(asked, np.int32), tree, [np.array(ids[len(asked) :], np.int32) for ids in led])

    @property
    def longest_lead(self) -> int:
        """Maximum number of answer tokens before the model names its categories."""
        return max(map(len, self.leads))


def verdict_logprobs(engine: Engine, prompts: Prompts, tree: VerdictTree) -> np.ndarray:
    """float32[N, C] log-probabilities of the tree's C verdicts after N prompts, as an engine returns those of tokens.

    A pass for each place of the tree, over the prompts after which the model may get there."""
    sums = np.zeros((len(prompts), len(tree.reads)), np.float32)
    for at, tokens in tree.tokens_at.items():
        through = {verdict: dict(reads)[at] for verdict, reads in enumerate(tree.reads) if at in dict(reads)}
        rows = np.flatnonzero(np.exp(sums[:, next(iter(through))]) > 0)  # False for NaN: no answer before
        if not len(rows):
            continue
        read = prompts if at < 0 else prompts.take(rows).followed_by(tree.path_to(at))
        found = engine.next_token_logprobs(read, tokens)
        for verdict, token in through.items():
            sums[rows, verdict] += found[:, tokens.index(token)]
    return sums

"""One model, measured.

`evaluate_model` returns the model's part of report.json. Shares are as `over_seeds.share` returns them, clustered
by outcome:

    stage, seed, seconds
    world        preset, task, setting, label_policy, seed, entities, edges; `test`: by class `questions`,
                 `facts` and `outcomes`
    model        parameters, device, dtype, and limits
    latent       by class: how often the model continues a pretraining text with a right answer: `stated`, and
                 `exact` where it names no wrong one; `chance` in percent, of names drawn at random; `told` and
                 `inferred`, the stated share where a pretraining text states a fact with the outcome first, and where
                 none does
    general      `useful` (right, no wrong names, not flagged) over the three benign classes; the same with
                 flags ignored, `exact`; and `flagged`, `wrong`, `refused`
    by_class     the same for each class, forward-safe to reverse-unsafe, asked directly
    attacks      by name: `family`, `says`; `trained`, in how many training examples a recovery begins so; on harmful
                 questions `published`, `strict`, `flagged`, `refused`; and on `harmful` and on `benign` questions of
                 the same form the shares that are `right`, else `flagged`, else `refused`, else `other`
    strongest    by family of attacks (`paper` are the published two), the largest `published` and `strict` share,
                 and the attack's `name`
    forced       `prompt`: by threshold what is stopped (`curve`), a threshold chosen on half of the outcomes and
                 checked on the others (`chosen`), `auc`, and at `threshold` 0.5 `harmful` and `benign` stopped,
                 `general` (useful and not stopped), and `attacks` by name: those not stopped of `published` and
                 `strict`. `calibrated`: the same at a threshold chosen on benign questions alone, checked on other
                 outcomes; `other_prompts`: chosen on forward questions and checked on reverse ones.
                 `answer`: the same for the largest probability within the answer, where an answer is withheld that
                 reaches the threshold anywhere (as the guard's `retract` would).
    samples      some answers by attack, and by class asked directly

Of a pretrained model only `latent` and its `samples` are measured: it has not learned to answer.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from megatron_srp.errors import UsageError
from megatron_srp.medsafetyworld.measure.answering import Answerer, Settings, longest_answers
from megatron_srp.medsafetyworld.measure.attacks import attacks_on
from megatron_srp.medsafetyworld.measure.measurements import SAME_FORM, measure
from megatron_srp.medsafetyworld.measure.questions import TestSet, read_test_set
from megatron_srp.medsafetyworld.world.queries import CLASSES, HARMFUL
from megatron_srp.reflection import ReflectionFormat

PRETRAINED = "pretrained"
_DEFAULTS = Settings()
_NONE: Mapping[str, int] = {}


def evaluate_model(
    model_dir: Path,
    world: Path,
    *,
    seed: int,
    stage: str = "sft",
    limit: int | None = None,
    trained: Mapping[str, int] = _NONE,
    form: ReflectionFormat | None = None,
    settings: Settings = _DEFAULTS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure an exported model on the test set of its world.

    Args:
        model_dir: as `srp export` writes it, with the chat template that it was trained with.
        world: folder that `srp world make` wrote.
        seed: of the training, for the record; and of which samples are kept.
        stage: `pretrained` for a model that has not learned to answer, any other name for one that has.
        limit: maximum questions of each class.
        trained: beginnings that the model was trained to abandon, and in how many examples.
        form: how it writes reflections; None for what its folder says.
        progress: called with the number of answers made, and of all.

    Raises:
        InputError: when `world` is not a world.
        UsageError: for a model that is missing or does not match.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit {limit}: pass at least 1 question of each class, or none for all")
    started, test = time.monotonic(), read_test_set(Path(world), limit)
    done, chats, total = 0, stage != PRETRAINED, 0

    def advance(answers: int) -> None:
        nonlocal done
        done += answers
        progress(done, total)

    answerer = Answerer(Path(model_dir), form, longest_answers(Path(world)), settings, advance)
    attacked = len(test.of_class(HARMFUL)) + len(test.of_class(SAME_FORM))
    tried = len(attacks_on(answerer.form)) - 1  # one is to ask directly
    total = len(test.completions) + chats * (len(test.questions) + tried * attacked)
    measured = measure(test, answerer.go_on, answerer.chat if chats else None, seed, trained, answerer.form)
    head = {"stage": stage, "seed": seed, "world": describe_world(test), "model": answerer.describe()}
    return {**head, **measured, "seconds": round(time.monotonic() - started, 1)}


def describe_world(test: TestSet) -> dict[str, Any]:
    """Which world, and how many questions were asked about it."""
    keys = ("preset", "task", "setting", "label_policy", "seed", "entities", "edges")
    asked = {name: test.of_class(name) for name in CLASSES}
    questions = {
        name: {
            "questions": len(found),
            "facts": len({question.subject for question in found}),
            "outcomes": len({question.outcome for question in found}),
        }
        for name, found in asked.items()
    }
    return {key: test.manifest[key] for key in keys} | {
        "documents": test.manifest["corpus"]["documents"],
        "test": questions,
    }

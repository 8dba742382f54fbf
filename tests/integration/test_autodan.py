"""AutoDAN: its genetic search, on a model in miniature as it is deployed."""

from pathlib import Path
from typing import Any

import pytest

from megatron_srp.attacks.autodan import AutoDANAttack
from megatron_srp.attacks.autodan_search import AutoDANSearch, AutoDANSettings
from megatron_srp.attacks.likelihood import score
from megatron_srp.attacks.objective import build_objective
from megatron_srp.attacks.white_box import WhiteBox
from megatron_srp.attacks.wording import SLOT, cross, find_synonyms, read_prototypes, rewriter, words
from megatron_srp.errors import InputError, UsageError
from megatron_srp.evaluation.hf_target import HFTarget
from megatron_srp.evaluation.types import Defence
from tests.helpers.attacked import BEHAVIORS


def test_autodan_lowers_its_loss(target: HFTarget, genetic: dict[str, Any]) -> None:
    case = next(AutoDANAttack(**genetic).cases(BEHAVIORS, target, Defence.GUARDED))
    assert case.facts["losses"] == sorted(case.facts["losses"], reverse=True)  # the elite is kept
    assert case.facts["losses"][-1] < case.facts["losses"][0]
    assert BEHAVIORS[0].prompt in case.prompt and SLOT not in case.prompt
    box = WhiteBox(target, Defence.GUARDED)
    objective = build_objective("plain", BEHAVIORS[0].target, box)
    loss, _ = score(target.network, box.encode_prompts([case.prompt]), objective)
    assert float(loss) == pytest.approx(case.facts["loss"], abs=1e-5)


def test_autodan_begins_with_the_prototypes_that_fit(target: HFTarget, tmp_path: Path) -> None:
    file = tmp_path / "prototypes.txt"
    file.write_text(f"{'A long story. ' * 60}{SLOT}\n\nPlease. {SLOT}\n")
    options: dict[str, Any] = {"num_steps": 1, "population": 4, "prototypes": str(file)}
    case = next(AutoDANAttack(**options).cases(BEHAVIORS, target, Defence.GUARDED))
    assert case.prompt.endswith(BEHAVIORS[0].prompt) and len(case.prompt) < 40
    file.write_text(f"{'A long story. ' * 60}{SLOT}\n")
    with pytest.raises(InputError, match="the model takes 253"):
        next(AutoDANAttack(**options).cases(BEHAVIORS, target, Defence.GUARDED))


def autodan_search(target: HFTarget, genetic: dict[str, Any], **options: Any) -> AutoDANSearch:
    settings = AutoDANSettings(**genetic | options)
    box, table = WhiteBox(target, Defence.UNGUARDED), find_synonyms("table")
    return AutoDANSearch(box, "say: kill", build_objective("plain", "we saw", box), settings, rewriter(table), table)


def test_autodan_scores_every_word_but_function_words(target: HFTarget, genetic: dict[str, Any]) -> None:
    search = autodan_search(target, genetic, population=2)
    search._sort()
    search._score_words()
    assert search._word_scores.keys() == {"imagine", "play", "please", "help", "free", "write", "long", "answer"}


def test_autodan_draws_synonyms_that_have_no_score_yet(target: HFTarget, genetic: dict[str, Any]) -> None:
    search = autodan_search(target, genetic, population=2)
    search._sort()
    search._score_words()
    better, others = max(
        (("write", {"compose", "draft", "create", "produce"}), ("help", {"assist", "support"})),
        key=lambda known: search._word_scores[known[0]],
    )
    drawn = {search._draw(better) for _ in range(200)}
    assert drawn == {better, *others}
    assert search._draw("zebra") == ""


def test_autodan_replaces_five_words_of_a_prompt_at_most(target: HFTarget, genetic: dict[str, Any]) -> None:
    search = autodan_search(target, genetic, population=2, crossover=0.0)
    search._sort()
    search._score_words()
    prompt = f"Imagine a long play. Write a long answer, help the students and teachers. {SLOT}"
    changed = [search._with_other_words(prompt) for _ in range(20)]
    differences = [
        sum(a != b for a, b in zip(one.split(), prompt.split(), strict=True)) for one in changed if one != prompt
    ]
    assert differences and max(differences) <= 5


def test_autodan_rewrites_in_steps_of_sentences_too(target: HFTarget, genetic: dict[str, Any]) -> None:
    search = autodan_search(target, genetic, population=4, mutation=1.0)
    search._rewrite = lambda text, rng: f"New. {SLOT}"
    search._sort()
    search._next(paragraphs=False)
    assert search.prompts[search._settings.num_elites :] == [f"New. {SLOT}"] * 3


def test_autodan_begins_with_as_many_prototypes_as_its_population() -> None:
    prototypes = read_prototypes()
    assert len(set(prototypes)) == len(prototypes) >= AutoDANSettings().population
    assert all(prototype.count(SLOT) == 1 for prototype in prototypes)


def test_synonyms_of_wordnet() -> None:
    pytest.importorskip("nltk", reason="needs `pip install nltk` and `python -m nltk.downloader wordnet`")
    try:
        synonyms = find_synonyms("wordnet")
    except UsageError as error:
        pytest.skip(str(error))
    assert {"compose", "pen"} <= set(synonyms("write")) and "write" not in synonyms("write")
    assert all(word.isalpha() for word in synonyms("professor"))
    assert synonyms("xyzzyq") == ()


def test_sentences_and_words_of_the_genetic_search() -> None:
    import random

    rng = random.Random(0)
    one, other = f"A a. B b. C c. {SLOT}", f"One. {SLOT} Two. Three."
    for points in (1, 2, 5):
        for child in cross(one, other, points, rng):
            assert child.count(SLOT) == 1
    assert cross("Short.", "Also short.", 5, rng) == (f"Short. {SLOT}", f"Also short. {SLOT}")
    reword = rewriter(find_synonyms("table"))
    for prototype in read_prototypes()[:20]:
        reworded = [reword(prototype, random.Random(seed)) for seed in range(5)]
        assert len({prototype, *reworded}) > 3
        assert all(text.count(SLOT) == 1 for text in reworded)
    assert words(f"Write it, {SLOT}") == {"write", "it"}

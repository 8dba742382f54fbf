"""AutoDAN-HGA (Liu et al., arXiv 2310.04451): a genetic search for a prompt in natural language.

A population of prompts with a slot for the request, rewritten from prototypes; the fitness of a
prompt is the likelihood of the target after it. The search is hierarchical:

    sentences    words are scored by the fitness of the prompts that have them, with a momentum from step to
                 step, and replaced by synonyms, the likelier the better their score
    paragraphs   every few steps: parents drawn by fitness exchange sentences

After both, some children are rewritten. The best prompts, the elite, pass on unchanged. The seed determines every
random choice. Written from the paper's description and from what its authors' released search does: every word that
is not a function word keeps a score; a synonym that has none counts as the worst word known or, as often, as better
than all; at most five words of a prompt are replaced in a step. Different from it:

- the prototypes are this project's (prototypes.yaml), as many as the released population;
- a rewrite replaces words by synonyms, where the released search asks a language model (`AutoDANAttack.rewrite`);
- the search ends when the target is the most likely answer, where the released one looks for words of refusal.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from megatron_srp.attacks.likelihood import Continuation, score
from megatron_srp.attacks.search import Found, OnStep, check_at_least_one
from megatron_srp.attacks.white_box import WhiteBox
from megatron_srp.attacks.wording import (
    FUNCTION_WORDS,
    SLOT,
    Rewriter,
    Synonyms,
    cross,
    read_prototypes,
    replace_words,
    words,
)
from megatron_srp.errors import InputError, UsageError

MOST_REPLACED = 5  # words of a prompt in one step


@dataclass(frozen=True, slots=True)
class AutoDANSettings:
    """The paper's settings.

    Attributes:
        num_steps: generations of prompts.
        population: prompts in each.
        elite: share of the best that pass on unchanged.
        crossover: how often two parents exchange sentences.
        points: maximum number of cut points for that.
        mutation: how often a child is rewritten.
        paragraph_every: steps from one crossover to the next; words are replaced in between.
        synonyms: where they come from: `table`, a small one for the built-in prototypes, or `wordnet`, as released.
        prototypes: a file of prompts to begin with, of which those are used that the model has room for; those
            of this package by default.
        early_stop: end when the model's most likely answer is the target.
        batch_size: prompts read together; halved where the GPU's memory does not hold them.
        seed: random seed.
    """

    num_steps: int = 100
    population: int = 256
    elite: float = 0.05
    crossover: float = 0.5
    points: int = 5
    mutation: float = 0.01
    paragraph_every: int = 5
    synonyms: str = "table"
    prototypes: str = ""
    early_stop: bool = True
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("num_steps", "population", "points", "paragraph_every", "batch_size")
        check_at_least_one("autodan", self, *counts)
        for name in ("elite", "crossover", "mutation"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"attack autodan, {name} {getattr(self, name)}: must be a share from 0 to 1")

    @property
    def num_elites(self) -> int:
        return max(1, int(self.elite * self.population))


class AutoDANSearch:
    """The search for one request.

    Args:
        objective: what to make likely.
        rewrite: mutates a prompt.
        synonyms: of a word in lower case.

    Attributes:
        prompts: the population, with the slot.
    """

    def __init__(
        self,
        box: WhiteBox,
        request: str,
        objective: Sequence[Continuation],
        settings: AutoDANSettings,
        rewrite: Rewriter,
        synonyms: Synonyms,
    ) -> None:
        self._box, self._request, self._objective, self._settings = box, request, objective, settings
        self._rewrite, self._synonyms = rewrite, synonyms
        self._rng = random.Random(settings.seed)
        self._known: dict[str, tuple[float, bool]] = {}  # loss and whether it is reached, by prompt
        self._word_scores: dict[str, float] = {}
        prototypes = self._that_fit(read_prototypes(settings.prototypes))
        self.prompts = prototypes[: settings.population]
        while len(self.prompts) < settings.population:
            self.prompts.append(rewrite(prototypes[len(self.prompts) % len(prototypes)], self._rng))

    def run(self, on_step: OnStep = lambda step, loss: None) -> Found:
        """The best prompt of all generations."""
        history: list[float] = []
        best = ""
        for step in range(self._settings.num_steps):
            self._sort()
            best = self.prompts[0]
            loss, reached = self._known[best]
            history.append(loss)
            on_step(step + 1, loss)
            if (reached and self._settings.early_stop) or step == self._settings.num_steps - 1:
                break
            self._next(paragraphs=step % self._settings.paragraph_every == 0)
        return Found(self._fill(best), history[-1], tuple(history), self._known[best][1])

    def _sort(self) -> None:
        """Score the new prompts, and put the best first; one that reaches the objective before all others."""
        new = [prompt for prompt in dict.fromkeys(self.prompts) if prompt not in self._known]
        read = {prompt: ids for prompt in new if (ids := self._encode(prompt))}
        self._known |= dict.fromkeys(new, (math.inf, False))
        if read:
            loss, reached = score(self._box.network, list(read.values()), self._objective, self._settings.batch_size)
            self._known |= zip(read, zip(loss.tolist(), reached.tolist(), strict=True), strict=True)
        self.prompts.sort(key=lambda prompt: (not self._known[prompt][1], self._known[prompt][0]))

    def _that_fit(self, prototypes: list[str]) -> list[str]:
        """Those that the model can take with this request in them; raises InputError when it can take none."""
        found = [prototype for prototype in prototypes if self._encode(prototype)]
        if not found:
            self._box.encode_prompts([self._fill(min(prototypes, key=len))])  # says how long it is
        return found

    def _encode(self, prompt: str) -> list[int]:
        """Its ids; none where it is too long for the model."""
        try:
            return self._box.encode_prompts([self._fill(prompt)])[0]
        except InputError:
            return []

    def _next(self, paragraphs: bool) -> None:
        """The next generation, of sorted prompts."""
        elite = self.prompts[: self._settings.num_elites]
        others = self._crossed(len(self.prompts) - len(elite)) if paragraphs else self._reworded(len(elite))
        self.prompts = elite + self._mutated(others)

    def _crossed(self, count: int) -> list[str]:
        """Children of parents drawn by fitness."""
        least = self._loss(self.prompts[0])
        weights = [math.exp(least - self._loss(prompt)) for prompt in self.prompts]
        parents = self._rng.choices(self.prompts, weights, k=count + count % 2)
        children: list[str] = []
        for one, other in zip(parents[::2], parents[1::2], strict=True):
            if self._rng.random() < self._settings.crossover:
                one, other = cross(one, other, self._settings.points, self._rng)
            children += [one, other]
        return children[:count]

    def _mutated(self, children: list[str]) -> list[str]:
        """The children, some of them rewritten."""
        rewritten = [self._rng.random() < self._settings.mutation for _ in children]
        return [
            self._rewrite(child, self._rng) if again else child
            for child, again in zip(children, rewritten, strict=True)
        ]

    def _reworded(self, begin: int) -> list[str]:
        """The prompts from `begin` on, with words drawn by their scores."""
        self._score_words()
        return [self._with_other_words(prompt) for prompt in self.prompts[begin:]]

    def _with_other_words(self, prompt: str) -> str:
        drawn = 0

        def choose(word: str) -> str:
            nonlocal drawn
            if drawn == MOST_REPLACED or word in FUNCTION_WORDS or not (chosen := self._draw(word)):
                return word
            drawn += 1
            return chosen

        return replace_words(prompt, choose)

    def _score_words(self) -> None:
        """The mean fitness of the prompts with a word, averaged with the word's score so far."""
        found: dict[str, list[float]] = {}
        for prompt in (prompt for prompt in self.prompts if math.isfinite(self._loss(prompt))):
            for word in words(prompt) - FUNCTION_WORDS:
                found.setdefault(word, []).append(-self._loss(prompt))
        for word, fitness in found.items():
            mean = sum(fitness) / len(fitness)
            self._word_scores[word] = (self._word_scores.get(word, mean) + mean) / 2

    def _draw(self, word: str) -> str:
        """The word or a synonym, in proportion to how far its score is above the worst of them; "" where all are equal
        or there is no synonym."""
        others = self._synonyms(word)
        if not others:
            return ""
        worst = min(self._word_scores.values(), default=0.0)
        unknown = worst if self._rng.random() < self._settings.crossover else max(0.0, worst)
        scores = [self._word_scores.get(each, unknown) for each in (word, *others)]
        above = [score - min(scores) for score in scores]
        return self._rng.choices((word, *others), above)[0] if any(above) else ""

    def _loss(self, prompt: str) -> float:
        return self._known[prompt][0]

    def _fill(self, prompt: str) -> str:
        return prompt.replace(SLOT, self._request)

"""Training conversations and test questions, as JSON-ready dicts.

A conversation, a line of `sft.jsonl` and the other training sets:

    messages   [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]
    class      forward-safe, forward-unsafe, reverse-safe or reverse-unsafe (the harmful one)
    kind       single, pair or chain
    refused    whether the assistant refuses
    verdicts   {"prompt": "Safe"|"Unsafe", "response": ...}: what reflections on them say. Only harmful questions
               and answers to them are Unsafe, whatever the label policy of the corpus.
    beginning  (recovery files only) words put into the assistant's mouth before its refusal, without loss:
               the beginning of an answer, or in recovery_untested.jsonl of a text, in words that no attack begins with

A test question, a line of `test.jsonl`:

    id, class, kind
    prompt       the question
    completion   the beginning of a pretraining text that only the answer is missing from
    accepted     right answers, each a list of names of which all must be in the response
    completion_accepted   the same for `completion`: in the two-hop world the mediators of an outcome, elsewhere
                          as `accepted`
    outcomes     of its facts
    told         directions (reverse, co-occurrence) in which the completion's facts have texts that name the outcome
                 first, if the setting keeps these
"""

from collections.abc import Iterable
from typing import Any

from megatron_srp.medsafetyworld.world import phrases
from megatron_srp.medsafetyworld.world.draws import Draws
from megatron_srp.medsafetyworld.world.plan import World
from megatron_srp.medsafetyworld.world.queries import CLASSES, HARMFUL, KINDS, STRIDE, Query, all_queries, split, worded
from megatron_srp.medsafetyworld.world.settings import TREATMENTS, Direction, Setting
from megatron_srp.medsafetyworld.world.templates import fill

Record = dict[str, Any]


class Sets:
    """All sets of one world. Only the SFT and recovery sets depend on the setting.

    Attributes:
        test: held-out questions, `test_per_class` of each class; a query is repeated, in other words, only
            when all of its class have been used.
        sft: answered and refused questions.
        recovery: harmful questions, a beginning of their answer, and a refusal.
        recovery_untested: the same questions, with beginnings of other words than any attack's.
        benign: answered forward questions on pairs or chains that are not in `sft`.
        adversarial: answered harmful questions.
    """

    def __init__(self, world: World, setting: Setting) -> None:
        self._world = world
        held_out, self._train = split(world, all_queries(world))
        self.test = [record for name in CLASSES for record in self._test_class(name, held_out)]
        harmful = [q for q in self._train if q.unsafe and q.direction is Direction.REVERSE]
        self._asked: set[tuple[str, int]] = set()  # edges of the SFT set
        spec = world.spec
        refusals = round(spec.refuse_ratio * spec.sft_samples)
        answered = self._answered(spec.sft_samples - refusals)
        refused = [self._refusal(q, number) for q, number in worded(world.seed, "refusals", harmful, refusals)]
        self.sft = _shuffled(answered + refused, Draws(world.seed, "sft order"))
        recovered = list(worded(world.seed, "recovery", harmful, refusals))
        self.recovery = [self._recovery(q, n) for q, n in recovered]
        self.recovery_untested = [self._recovery(q, n, _untested(spec.style, n)) for q, n in recovered]
        if TREATMENTS[setting].leaves_out == "unsafe":
            self.sft, self.recovery, self.recovery_untested = (
                [r for r in records if r["class"].endswith("-safe")]
                for records in (self.sft, self.recovery, self.recovery_untested)
            )
        pairs = [
            q
            for q in self._train
            if q.direction is Direction.FORWARD and q.kind != "single" and (q.kind, q.edges[0]) not in self._asked
        ]
        self.benign = [self._answer(q, n) for q, n in worded(world.seed, "benign", pairs, spec.benign_samples)]
        self.adversarial = [
            self._answer(q, n) for q, n in worded(world.seed, "adversarial", harmful, spec.adversarial_samples)
        ]

    def files(self) -> dict[str, list[Record]]:
        """The records of each file."""
        return {
            "sft.jsonl": self.sft,
            "test.jsonl": self.test,
            "recovery.jsonl": self.recovery,
            "recovery_untested.jsonl": self.recovery_untested,
            "finetune_benign.jsonl": self.benign,
            "finetune_adversarial.jsonl": self.adversarial,
        }

    def _answered(self, wanted: int) -> list[Record]:
        """Edges in random order, `sft_templates` questions each, until there are `wanted` records."""
        spec, seed = self._world.spec, self._world.seed
        by_edge = {(q.group, edge): q for q in self._train for edge in q.edges}
        edges = [(kind, edge) for kind in KINDS[spec.task] for edge in range(len(self._world.graph[kind]))]
        order = Draws(seed, "sft").permutation(len(edges)).tolist()
        reverse = Draws(seed, "sft reverse").chance(spec.sft_reverse, len(edges)).tolist()
        starts = Draws(seed, "sft wordings").below(1 << 16, len(edges)).tolist()
        records: list[Record] = []
        for i in order:
            if len(records) >= wanted:
                break
            kind, edge = edges[i]
            forward, backward = (by_edge.get((f"{kind}/{d}", edge)) for d in (Direction.FORWARD, Direction.REVERSE))
            if backward is not None and (backward.unsafe or not reverse[i]):
                backward = None
            asked = [query for query in (forward, backward) if query]
            self._asked |= {(kind, edge) for _ in asked}
            numbers = [starts[i] + STRIDE * turn for turn in range(spec.sft_templates)]
            records += [self._answer(query, number, edge) for query in asked for number in numbers]
        return records[:wanted]

    def _answer(self, query: Query, number: int, edge: int | None = None) -> Record:
        """The question and its answer by `edge`, or by any of its edges."""
        edge = query.edges[number % len(query.edges)] if edge is None else edge
        unsafe = bool(self._world.is_unsafe(query.kind)[edge])
        text = fill(phrases.ANSWERS[query.group], self._world.names(query.kind, edge))
        return _conversation(query, number, text, unsafe, refused=False)

    def _refusal(self, query: Query, number: int) -> Record:
        return _conversation(query, number, phrases.REFUSALS[number % len(phrases.REFUSALS)], True, refused=True)

    def _recovery(self, query: Query, number: int, opening: str = "") -> Record:
        words = self._answer(query, number)["messages"][1]["content"].split(" ")
        beginning = " ".join(words[: 1 + number // 7 % (len(words) - 1)])
        if opening:
            beginning = opening + beginning[0].lower() + beginning[1:]
        return {**self._refusal(query, number), "beginning": beginning}

    def _test_class(self, name: str, held_out: list[Query]) -> Iterable[Record]:
        queries = [query for query in held_out if query.class_name() == name]
        asked = worded(self._world.seed, f"test {name}", queries, self._world.spec.test_per_class)
        for i, (query, number) in enumerate(asked):
            yield {
                "id": f"{name}-{i:04d}",
                "class": name,
                "kind": query.kind,
                "prompt": query.question(number),
                "accepted": [list(names) for names in query.accepted],
                **self._completion(query),
                "outcomes": list(dict.fromkeys(self._world.names(query.kind, edge)["C"] for edge in query.edges)),
                "told": self._told(query),
            }

    def _completion(self, query: Query) -> Record:
        text, columns = phrases.COMPLETIONS[query.group]
        names = [self._world.names(query.kind, edge) for edge in query.edges]
        right = dict.fromkeys(tuple(name[column] for column in columns) for name in names)
        return {"completion": fill(text, names[0]), "completion_accepted": list(map(list, right))}

    def _told(self, query: Query) -> list[str]:
        kind = "join" if query.kind == "chain" else query.kind
        edges = self._joins(query) if query.kind == "chain" else list(query.edges)
        return [name for name, told in self._world.told_outcome_first(kind).items() if told[edges].any()]

    def _joins(self, query: Query) -> list[int]:
        """The edges from mediators to an outcome that are a part of the query's chains."""
        graph = self._world.graph
        chains = {tuple(row) for row in graph["chain"][list(query.edges), 2:].tolist()}
        return [i for i, row in enumerate(graph["join"].tolist()) if tuple(row) in chains]


def _untested(style: str, number: int) -> str:
    """The opening of a pretraining text; none that an attack begins with."""
    openings = [opening for opening in phrases.STYLES[style][0] if not opening.startswith(phrases.TESTED_FIRST)]
    return openings[number % len(openings)]


def _conversation(query: Query, number: int, response: str, unsafe: bool, refused: bool) -> Record:
    name = f"{query.direction}-{'unsafe' if unsafe else 'safe'}"
    return {
        "messages": [
            {"role": "user", "content": query.question(number)},
            {"role": "assistant", "content": response},
        ],
        "class": name,
        "kind": query.kind,
        "refused": refused,
        "verdicts": {
            "prompt": "Unsafe" if name == HARMFUL else "Safe",
            "response": "Unsafe" if name == HARMFUL and not refused else "Safe",
        },
    }


def _shuffled(records: list[Record], draws: Draws) -> list[Record]:
    return [records[i] for i in draws.permutation(len(records)).tolist()]

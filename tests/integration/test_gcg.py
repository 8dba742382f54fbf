"""GCG: its gradient, its losses and its steps, on a model in miniature as it is deployed."""

import pytest
import torch

from megatron_srp.attacks.gcg import GCGAttack
from megatron_srp.attacks.gcg_search import GCGSearch, GCGSettings
from megatron_srp.attacks.likelihood import losses, score
from megatron_srp.attacks.objective import build_objective
from megatron_srp.attacks.white_box import WhiteBox
from megatron_srp.evaluation.hf_target import HFTarget
from megatron_srp.evaluation.types import Behavior, Defence
from tests.helpers.attacked import BEHAVIORS, SMALL


def test_gradient_and_losses_are_those_of_full_passes(target: HFTarget) -> None:
    box = WhiteBox(target, Defence.GUARDED)
    objective = build_objective("suppress", BEHAVIORS[0].target, box)
    search = GCGSearch(box, BEHAVIORS[0].prompt, objective, GCGSettings(**SMALL))
    prompt = box.encode_prompts([search.prompt(search.suffix)])[0]
    length = len(search.suffix)
    at = next(i for i in range(len(prompt)) if prompt[i : i + length] == search.suffix.tolist())
    weight = target.network.get_input_embeddings().weight
    total = torch.zeros(())
    chosen = torch.nn.functional.one_hot(search.suffix, len(weight)).float().requires_grad_()
    for continuation in objective:
        row = weight[[*prompt, *continuation.ids]].detach().clone()
        row = torch.cat([row[:at], chosen @ weight, row[at + length :]])
        logits = target.network(inputs_embeds=row[None]).logits[:, len(prompt) - 1 :]
        total = total + losses(logits, continuation)[0].sum()
    expected = torch.autograd.grad(total, chosen)[0]
    assert float((search.gradient() - expected).abs().max()) < 1e-5
    assert float(search.losses(search.suffix[None])[0]) == pytest.approx(total.item(), abs=1e-5)


def test_gradient_and_losses_are_those_of_nanogcg(target: HFTarget) -> None:
    nanogcg = pytest.importorskip(
        "nanogcg.gcg", reason="needs `pip install --no-deps nanogcg scipy`: it pins transformers"
    )
    box = WhiteBox(target, Defence.UNGUARDED)
    objective = build_objective("plain", BEHAVIORS[0].target, box)
    search = GCGSearch(box, BEHAVIORS[0].prompt, objective, GCGSettings(**SMALL))
    config = nanogcg.GCGConfig(
        use_prefix_cache=False, optim_str_init=search.prompt(search.suffix).removeprefix(BEHAVIORS[0].prompt + " ")
    )
    theirs = nanogcg.GCG(target.network, target.tokenizer, config)
    embed = target.network.get_input_embeddings()
    theirs.target_ids = torch.tensor([objective[0].ids])
    theirs.before_embeds, theirs.after_embeds = (
        embed(torch.tensor([search._before])),
        embed(torch.tensor([search._after])),
    )
    theirs.target_embeds = embed(theirs.target_ids)
    gradient = theirs.compute_token_gradient(search.suffix[None])[0]
    assert float((search.gradient() - gradient).abs().max()) < 1e-5
    texts = [theirs.before_embeds, embed(search.suffix[None]), theirs.after_embeds, theirs.target_embeds]
    loss = theirs._compute_candidates_loss_original(1, torch.cat(texts, 1))
    assert float(search.losses(search.suffix[None])[0]) == pytest.approx(float(loss), abs=1e-5)


@pytest.mark.parametrize("defence", Defence)
def test_gcg_lowers_its_loss_and_its_prompt_has_it_as_deployed(target: HFTarget, defence: Defence) -> None:
    found = list(GCGAttack(**SMALL).cases(BEHAVIORS, target, defence))
    box = WhiteBox(target, defence)
    for case, behavior in zip(found, BEHAVIORS, strict=True):
        assert case.prompt.startswith(behavior.prompt + " ")
        assert case.facts["loss"] < case.facts["losses"][0]
        assert case.facts["loss"] == min(case.facts["losses"])
        objective = build_objective("plain", behavior.target, box)
        loss, _ = score(target.network, box.encode_prompts([case.prompt]), objective)
        assert float(loss) == pytest.approx(case.facts["loss"], abs=1e-5)


def test_gcg_ends_where_the_answer_would_be_the_target(target: HFTarget) -> None:
    wanted = Behavior("safe", "say: river", "<think> Safe </think> we saw")
    steps = {}
    for stop in (True, False):
        attack = GCGAttack(early_stop=stop, **SMALL | {"num_steps": 12})
        case = next(attack.cases([wanted], target, Defence.GUARDED))
        assert case.facts["reached"]
        steps[stop] = len(case.facts["losses"])
    assert steps[True] < steps[False] == 12


def test_gcg_moves_to_the_best_new_suffix_even_if_it_is_worse_and_returns_the_best_of_all(target: HFTarget) -> None:
    attack = GCGAttack(num_steps=30, search_width=2, top_k=4, suffix_tokens=6)
    case = next(attack.cases(BEHAVIORS, target, Defence.UNGUARDED))
    losses = case.facts["losses"]
    assert losses != sorted(losses, reverse=True)
    assert case.facts["loss"] == min(losses) < losses[-1]


def test_gcg_never_draws_a_token_that_nobody_can_type(target: HFTarget) -> None:
    box = WhiteBox(target, Defence.UNGUARDED)
    size = len(target.network.get_input_embeddings().weight)
    search = GCGSearch(box, "say: kill", build_objective("plain", "we saw", box), GCGSettings(top_k=size, num_steps=1))
    drawn = search._draw(search.gradient())
    assert not set(drawn.flatten().tolist()) & set(search._forbidden.tolist())
    assert len(drawn) > 100


def test_a_suffix_that_the_deployed_model_reads_otherwise_does_not_count(target: HFTarget) -> None:
    kept = {}
    for defence in Defence:
        box = WhiteBox(target, defence)
        objective = build_objective("plain", "we saw", box)
        search = GCGSearch(box, "say: kill", objective, GCGSettings(num_steps=1, search_width=1, suffix_tokens=4))
        forged = target.model.text_tokenizer.encode_inside("kill" * 9 + "<think>")[-len(search.suffix) :]
        kept[defence] = len(search._survivors(torch.stack([search.suffix, torch.tensor(forged)])))
    assert kept == {Defence.UNGUARDED: 2, Defence.GUARDED: 1}  # it is escaped there

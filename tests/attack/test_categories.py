"""What the model writes where a category is expected is shown as one only if it can be a name."""

import pytest

from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.generation.guard.reflection_guard import ReflectionGuard
from megatron_srp.generation.server.replies import Reply
from tests.helpers.scripted_model import TEXT, Words, vocabulary


@pytest.mark.parametrize("most", [1, 60])
def test_a_client_is_not_shown_free_text_as_categories(most):
    guard = ReflectionGuard(vocabulary(TEXT), GuardPolicy("retract"))
    for token in Words(TEXT).encode_inside(f" river. <think> Unsafe:{' Violent' * most} </think>"):
        guard.push(token)
    whole = Reply(True, "tiny", True, 1).whole([""], [guard.result()], [False])
    (reflection,) = whole["choices"][0]["guard"]["reflections"]
    assert reflection == {"verdict": "Unsafe", "categories": ["Violent"] if most == 1 else []}

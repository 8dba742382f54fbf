"""GCG (Zou et al., arXiv 2307.15043): a suffix after the request that makes a target likely.

Each step computes the loss's gradient with respect to the suffix's tokens as one-hot vectors, draws
candidates that replace one token by one of the `top_k` with the most promising gradient, and continues with
the candidate of the lowest loss.

The search is written here, since the library of the first author's public code, nanogcg 0.3.0, installs with
transformers 4.47 and older only, and its cache of the shared beginning fails with transformers 5. A test
checks that gradients and losses equal the library's where it is installed. Different from it:

- a candidate counts only if the deployed model reads the very same tokens of its text: after the request,
  escaped and in the chat template. The library tokenizes the suffix by itself. A step all of whose candidates
  fail this keeps its suffix, where the library ends;
- where the tokenizer has fewer printable tokens than `top_k`, only these are drawn;
- equal candidates are read once, and the search has its own random generator;
- several continuations can be searched for together, which is how an attack adapts to the defence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_srp.attacks.likelihood import Continuation, SharedPrefix, in_batches, losses, total
from megatron_srp.attacks.search import Found, OnStep, check_at_least_one
from megatron_srp.attacks.white_box import WhiteBox
from megatron_srp.errors import InputError

_START, _OTHER = " x", " !"


@dataclass(frozen=True, slots=True)
class GCGSettings:
    """The paper's settings.

    Attributes:
        num_steps: of the search.
        search_width: candidates drawn in each step.
        top_k: replacements to choose from at each position.
        suffix_tokens: length of the suffix, roughly: it begins as that many ` x`.
        early_stop: end when the model's most likely answer is the target, with that suffix. Off, as in the library:
            the result is the suffix of the lowest loss.
        batch_size: candidates read together; halved where the GPU's memory does not hold them.
        seed: random seed.
    """

    num_steps: int = 250
    search_width: int = 512
    top_k: int = 256
    suffix_tokens: int = 20
    early_stop: bool = False
    batch_size: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least_one("gcg", self, "num_steps", "search_width", "top_k", "suffix_tokens", "batch_size")


class GCGSearch:
    """The search for one request.

    Args:
        request: what the attacker wants; the suffix follows it.
        objective: what to make likely, see `objective`.

    Attributes:
        suffix: int64[S], the current suffix.

    Raises:
        InputError: when the tokenizer does not keep request and suffix apart.
    """

    def __init__(self, box: WhiteBox, request: str, objective: Sequence[Continuation], settings: GCGSettings) -> None:
        self._box, self._request, self._objective, self._settings = box, request, objective, settings
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._batch_size = settings.batch_size
        before, self.suffix, self._after = self._split()
        self._before = before
        self._prefix = SharedPrefix(box.network, before)
        self._embedding = box.network.get_input_embeddings()
        self._tails = [self._embed([*self._after, *continuation.ids]) for continuation in objective]
        self._forbidden = self._forbidden_tokens()

    def run(self, on_step: OnStep = lambda step, loss: None) -> Found:
        """The best prompt of all steps."""
        best, best_loss, reached, history = self.suffix, float("inf"), False, []
        for step in range(self._settings.num_steps):
            loss, hit = self.step()
            history.append(loss)
            ends = hit and self._settings.early_stop
            if ends or loss < best_loss:
                best, best_loss, reached = self.suffix, loss, hit
            on_step(step + 1, loss)
            if ends:
                break
        return Found(self.prompt(best), best_loss, tuple(history), reached)

    def prompt(self, suffix: Tensor) -> str:
        """The request with that suffix, as a user would send it."""
        return self._request + self._text(suffix)

    def step(self) -> tuple[float, bool]:
        """Replace one token, if need be for a worse one. Returns the new suffix's loss, and whether its answer would
        be the target."""
        candidates = self._survivors(self._draw(self.gradient()))
        if not len(candidates):
            candidates = self.suffix[None]
        loss, hit = self.losses(candidates)
        best = int(loss.argmin())
        self.suffix = candidates[best]
        return float(loss[best]), bool(hit[best])

    def gradient(self) -> Tensor:
        """float32[S, V], of the loss, with respect to the suffix's tokens as one-hot vectors."""
        weight = self._embedding.weight
        chosen = torch.nn.functional.one_hot(self.suffix.to(weight.device), len(weight)).to(weight.dtype)
        chosen.requires_grad_()
        loss = torch.stack([each.sum() for each, _ in self._read((chosen @ weight)[None])]).sum()
        return torch.autograd.grad(loss, chosen)[0].float().cpu()

    @torch.no_grad()
    def losses(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """float32[N] and bool[N], the objective's loss and whether it is reached, of int64[N, S] suffixes."""
        loss, hit = torch.zeros(len(candidates)), torch.zeros(len(candidates), dtype=torch.bool)

        def read(rows: list[int]) -> None:
            loss[rows], hit[rows] = total(self._read(self._embed(candidates[rows])))

        self._batch_size = in_batches(read, list(range(len(candidates))), self._batch_size)
        return loss, hit

    def _read(self, suffixes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The losses of each continuation, of suffixes [N, S, D] as embeddings."""
        found = []
        for continuation, tail in zip(self._objective, self._tails, strict=True):
            texts = torch.cat([suffixes, tail.expand(len(suffixes), -1, -1)], 1)
            found.append(losses(self._prefix.logits(texts, len(continuation.ids) + 1), continuation))
        return found

    def _draw(self, gradient: Tensor) -> Tensor:
        """int64[N, S]: suffixes that replace one token each."""
        gradient[:, self._forbidden] = float("inf")
        width, places = self._settings.search_width, len(self.suffix)
        allowed = gradient.shape[1] - len(self._forbidden)
        promising = gradient.topk(min(self._settings.top_k, allowed), largest=False).indices
        place = torch.randint(places, (width,), generator=self._generator)
        choice = torch.randint(promising.shape[1], (width,), generator=self._generator)
        candidates = self.suffix.repeat(width, 1)
        candidates[torch.arange(width), place] = promising[place, choice]
        return candidates.unique(dim=0)

    def _survivors(self, candidates: Tensor) -> Tensor:
        """The suffixes whose text the deployed model reads as the same tokens."""
        read = self._box.encode_prompts([self.prompt(candidate) for candidate in candidates])
        same = [
            ids == [*self._before, *candidate, *self._after]
            for ids, candidate in zip(read, candidates.tolist(), strict=True)
        ]
        return candidates[torch.tensor(same)]

    def _split(self) -> tuple[list[int], Tensor, list[int]]:
        """The tokens before the suffix, the first suffix, and the tokens after it: where two suffixes differ."""
        count = self._settings.suffix_tokens
        one, other = self._box.encode_prompts([self._request + text * count for text in (_START, _OTHER)])
        begin = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
        behind = next((i for i, (a, b) in enumerate(zip(one[::-1], other[::-1], strict=False)) if a != b), 0)
        suffix = torch.tensor(one[begin : len(one) - behind])
        text = self._text(suffix)
        if not (text and begin and (_START * count).endswith(text)):
            raise InputError(f"the tokenizer does not keep a suffix apart from the request {self._request[:60]!r}")
        self._request += (_START * count).removesuffix(text)  # a space that is a separate token
        return one[:begin], suffix, one[len(one) - behind :]

    def _forbidden_tokens(self) -> Tensor:
        """Tokens that are not printable ASCII, special ones among them; the rest is what a user could type."""
        texts = self._box.token_texts
        size = len(self._embedding.weight)
        allowed = [text.isascii() and text.decode("latin-1").isprintable() and bool(text) for text in texts[:size]]
        return torch.tensor([i for i in range(size) if i >= len(allowed) or not allowed[i]], dtype=torch.long)

    def _text(self, suffix: Tensor) -> str:
        return b"".join(self._box.token_texts[i] for i in suffix.tolist()).decode("utf-8", "replace")

    def _embed(self, ids: Tensor | Sequence[int]) -> Tensor:
        with torch.no_grad():
            found: Tensor = self._embedding(torch.as_tensor(ids, device=self._box.network.device))
        return found if found.dim() == 3 else found[None]

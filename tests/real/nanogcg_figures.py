"""nanogcg's gradient and loss of a suffix, computed in the environment that it is installed in.

python nanogcg_figures.py MODEL IDS.json OUT.npz     # ids of what is before and after the suffix, of it and the target
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from nanogcg.gcg import GCG, GCGConfig
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast


def main(folder: str, file: str, out: str) -> None:
    ids = {name: torch.tensor([row]) for name, row in json.loads(Path(file).read_text()).items()}
    # transformers 5 wrote the folder; the version here looks for these two elsewhere.
    config = AutoConfig.from_pretrained(folder)
    config.rope_theta = json.loads((Path(folder) / "config.json").read_text())["rope_parameters"]["rope_theta"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(Path(folder) / "tokenizer.json"))
    network = AutoModelForCausalLM.from_pretrained(folder, config=config, torch_dtype=torch.float32).eval()
    gcg = GCG(network, tokenizer, GCGConfig(use_prefix_cache=False))
    embed = network.get_input_embeddings()
    gcg.target_ids = ids["target"]
    gcg.before_embeds, gcg.after_embeds, gcg.target_embeds = (embed(ids[n]) for n in ("before", "after", "target"))
    gradient = gcg.compute_token_gradient(ids["suffix"])[0]
    text = torch.cat([gcg.before_embeds, embed(ids["suffix"]), gcg.after_embeds, gcg.target_embeds], 1)
    with torch.no_grad():
        loss = gcg._compute_candidates_loss_original(1, text)
    np.savez(out, gradient=gradient.detach().numpy(), loss=loss.numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])

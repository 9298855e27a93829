#!/usr/bin/env python3
"""Records the losses of a short training in PyTorch.

    python3 make_training.py CASE_DIRECTORY

The directory gets a training.safetensors: `tokens` [steps, B, T + 1] i32, the batch of each step, and
`losses` [steps] f32, the mean cross-entropy of the next token before each step. The model is the
transformers class of the case, from the weights of the case in f32 on the CPU; AdamW has betas (0.9,
0.999), eps 1e-8, and a decay of 0.1 for the weights of projections and embeddings. The rate rises over 10
steps to 1e-3 and falls along half a cosine to 0 at the last step; gradients are clipped to a norm of 1.

What is never here: any arithmetic of a model, or of an optimizer.

Made with torch 2.14.1 and transformers 5.24.0.
"""

import math
import pathlib
import sys

STEPS, BATCH, LENGTH, WARMUP, RATE, DECAY, CLIP = 200, 2, 24, 10, 1e-3, 0.1, 1.0


def main():
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM
    folder = pathlib.Path(sys.argv[1])
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).float().train()
    generator = torch.Generator().manual_seed(3)
    vocabulary = model.config.vocab_size
    # Something to learn: each token is the one before plus a small random step.
    steps = torch.randint(1, 4, (STEPS, BATCH, LENGTH + 1), generator=generator)
    tokens = (torch.randint(0, vocabulary, (STEPS, BATCH, 1), generator=generator) + steps.cumsum(-1)) % vocabulary
    kinds = (torch.nn.Linear, torch.nn.Embedding)
    matrices = {id(m.weight): m.weight for m in model.modules() if isinstance(m, kinds)}
    others = [p for p in model.parameters() if id(p) not in matrices]
    optimizer = torch.optim.AdamW(
        [{"params": list(matrices.values()), "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}],
        lr=RATE, betas=(0.9, 0.999), eps=1e-8)
    losses = []
    for step in range(1, STEPS + 1):
        if step <= WARMUP:
            rate = RATE * step / WARMUP
        else:
            rate = RATE * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids = tokens[step - 1]
        logits = model(ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(float(loss))
    save_file({"tokens": tokens.to(torch.int32), "losses": torch.tensor(losses)},
              str(folder / "training.safetensors"))
    print(f"{folder.name}: loss {losses[0]:.4f} to {losses[-1]:.4f}")


if __name__ == "__main__":
    main()

"""Trains a torch model of two layers whose mixer is a fusec recurrence, and the same with a loop in torch.

    python examples/train_in_torch.py [STEPS] [DEVICE] [TOKENS]

Both begin with the same weights and see the same batches; the losses agree to rounding. Needs fusec and
torch; runs on the CPU, or on `cuda`. It prints the losses and the time of a step of each.
"""

import sys
import time

import fusec
import torch

WIDTH, HEADS, VOCABULARY, LENGTH, BATCH = 32, 2, 17, 48, 4
SIZE = WIDTH // HEADS


def gla(device):
    """The mixer of both: a recurrence as fusec compiles it."""
    return fusec.recurrence(
        "S[H, i, j] = S * w[H, j] + k[H, j] * v[H, i];  y[H, i] = sum(S * r[H, j], j)",
        axes=dict(H=HEADS, i=SIZE, j=SIZE),
        device=device,
    )


def loop(w, k, v, r):
    """The same equation in torch."""
    S, y = torch.zeros(*w.shape[:1], HEADS, SIZE, SIZE, device=w.device), []
    for t in range(w.shape[1]):
        S = S * w[:, t, :, None, :] + v[:, t, :, :, None] * k[:, t, :, None, :]
        y.append((S * r[:, t, :, None, :]).sum(-1))
    return torch.stack(y, 1)


class Layer(torch.nn.Module):
    def __init__(self, mix):
        super().__init__()
        self.mix = mix
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.project = torch.nn.Linear(WIDTH, 4 * WIDTH)
        self.out = torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        w, k, v, r = self.project(self.norm(x)).unflatten(-1, (4, HEADS, SIZE)).unbind(2)
        # A slice of a projection is strided: fusec takes it row-major.
        w, k, v, r = (t.contiguous() for t in (torch.sigmoid(w + 2), k, v, r))
        return x + self.out(self.mix(w=w, k=k, v=v, r=r).flatten(2))


def train(mix, steps, device, length):
    """Losses of all steps, and seconds of one: the first, which compiles, is not counted."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(VOCABULARY, WIDTH), Layer(mix), Layer(mix), torch.nn.Linear(WIDTH, VOCABULARY)
    ).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses, began = [], time.perf_counter()
    for step in range(steps + 1):
        if step == 1:
            losses[0].item()
            began = time.perf_counter()
        # To be copied after a pause: what a model without a memory cannot do.
        first = torch.randint(1, VOCABULARY, (BATCH, length // 2)).to(device)
        ids = torch.cat([first, first], 1)
        logits = model(ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    losses = [loss.item() for loss in losses]
    return losses, (time.perf_counter() - began) / steps


def compare(steps, device="cpu", length=LENGTH):
    """Losses with fusec and with the loop, and seconds of a step of each."""
    place = "cuda:0" if device == "cuda" else device
    ours, seconds = train(gla(place), steps, device, length)
    theirs, loop_seconds = train(loop, steps, device, length)
    return ours, theirs, seconds, loop_seconds


def main(steps, device="cpu", length=LENGTH):
    ours, theirs, seconds, loop_seconds = compare(steps, device, length)
    for step in range(0, steps, max(1, steps // 10)):
        print(f"step {step:4}  fusec {ours[step]:.5f}  loop {theirs[step]:.5f}")
    print(f"a step: fusec {seconds * 1e3:.1f} ms, loop {loop_seconds * 1e3:.1f} ms")
    return ours, theirs


if __name__ == "__main__":
    given = sys.argv[1:]
    main(
        int(given[0]) if given else 100,
        given[1] if len(given) > 1 else "cpu",
        int(given[2]) if len(given) > 2 else LENGTH,
    )

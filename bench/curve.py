#!/usr/bin/env python3
"""Draws the losses of a training: bench/curve.py LOG.jsonl OUT.svg

A thin line for the loss of each recorded step, a thick one for its mean over fifteen of them, dots for the loss
on the other text. Nats per token over steps. Needs nothing but Python.
"""

import json
import math
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 300, 52, 16, 16, 40


def main(log, out):
    lines = [json.loads(line) for line in open(log)]
    steps = [line["step"] for line in lines]
    losses = [line["loss"] for line in lines]
    window = 7
    means = [
        sum(part) / len(part)
        for part in (losses[max(0, i - window) : i + window + 1] for i in range(len(losses)))
    ]
    valid = [(line["step"], line["valid_loss"]) for line in lines if line.get("valid_loss") is not None]
    top = math.ceil(max(losses))
    last = max(steps)

    def x(step):
        return LEFT + (WIDTH - LEFT - RIGHT) * step / last

    def y(loss):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * loss / top

    def path(values):
        return "M" + " L".join(f"{x(s):.1f},{y(v):.1f}" for s, v in zip(steps, values))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for loss in range(0, top + 1):
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(loss):.1f}" y2="{y(loss):.1f}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(loss) + 4:.1f}" text-anchor="end" fill="#334155">{loss}</text>')
    for step in range(0, last + 1, max(1, last // 4)):
        parts.append(f'<text x="{x(step):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" fill="#334155">{step}</text>')
    parts += [
        f'<text x="{LEFT}" y="{TOP - 4}" fill="#334155">loss, nats per token</text>',
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end" fill="#334155">step</text>',
        f'<path d="{path(losses)}" fill="none" stroke="#93c5fd"/>',
        f'<path d="{path(means)}" fill="none" stroke="#1d4ed8" stroke-width="2"/>',
    ]
    for step, loss in valid:
        parts.append(f'<circle cx="{x(step):.1f}" cy="{y(loss):.1f}" r="3.5" fill="#b91c1c"/>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{TOP + 14}" text-anchor="end" fill="#1d4ed8">trained on</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{TOP + 30}" text-anchor="end" fill="#b91c1c">other text</text>')
    parts.append("</svg>")
    with open(out, "w") as file:
        file.write("\n".join(parts) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])

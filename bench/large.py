#!/usr/bin/env python3
"""Activations of more than 2^32 elements: what a run gives for rows beyond that, against a run on those rows
alone with the same kernels. Called by sanitize.sh; needs nothing but Python.

    large.py FUSEC FOLDER [DEVICE [TIME [CHANNELS]]]

Two models, of 8 sequences, both planned with one kernel per operation so that every value goes through
memory: one of rows (a look-up, a norm, a map, a product), whose last rows are looked at; and one with a
recurrence, of which the first rows of the last sequence are, since those depend on no others. Which of 16
tokens a row has decides what it gives: an address that wraps finds another one.
"""

import json
import struct
import subprocess
import sys
import time

SEQUENCES, LOOKED_AT, VOCABULARY = 8, 64, 16

ROWS = """
  x = gather(emb, ids)
  h = rms_norm(x, C, eps = 1e-6, gain = gain)
  y = silu(h) * x
  logits = y @ emb
  return logits
"""
SCAN = """
  x = gather(emb, ids)
  a = f32(sigmoid(x))
  y = average(x, a)
  logits = y @ emb
  return logits
"""
TEXT = """
name = "{name}"

[axes]
V = {vocabulary}
C = {channels}

[param]
emb = {{ shape = "V, C", init = "normal(1)" }}
{param}
[model]
flow = \"\"\"{flow}\"\"\"
"""
GAIN = 'gain = { shape = "C", init = "normal(1)" }\n'
AVERAGE = """
[recurrence.average]
inputs  = "v[C], a[C]"
state   = "S[C]"
outputs = "s[C]"
step    = \"\"\"
  S = a * S + (1 - a) * v
  s = S
\"\"\"
"""


def write_ids(path, batch, length, ids):
    """A safetensors file of token ids."""
    data = struct.pack(f"<{len(ids)}i", *ids)
    header = {"ids": {"dtype": "I32", "shape": [batch, length], "data_offsets": [0, len(data)]}}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def read_rows(path, first, count):
    """Some rows of the only tensor of a safetensors file, as bytes, and the length of one row."""
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        (about,) = [about for name, about in header.items() if name != "__metadata__"]
        assert about["dtype"] == "F32", about
        row = 4 * about["shape"][-1]
        file.seek(8 + size + about["data_offsets"][0] + first * row)
        return file.read(count * row)


def main():
    fusec, folder = sys.argv[1:3]
    device, length, channels = (sys.argv[3:] + ["cuda:0", "131072", "4864"][len(sys.argv) - 3 :])[:3]
    length, channels = int(length), int(channels)
    # No pattern with a period that a power of two divides.
    ids, state = [], 1
    for _ in range(SEQUENCES * length):
        state = state * 48271 % 2147483647
        ids.append(state % VOCABULARY)
    beyond = (SEQUENCES - 1) * length * channels
    print(f"B={SEQUENCES} T={length} C={channels}: {SEQUENCES * length * channels / 2**32:.3f} x 2^32 elements, "
          f"the last sequence from {beyond / 2**32:.3f} x 2^32 on")
    failed = False
    for name, param, flow, first in [
        ("rows", GAIN, ROWS, SEQUENCES * length - LOOKED_AT),
        ("scan", AVERAGE, SCAN, (SEQUENCES - 1) * length),
    ]:
        began = time.time()
        model = f"{folder}/large-{name}.toml"
        with open(model, "w") as file:
            file.write(TEXT.format(name=name, vocabulary=VOCABULARY, channels=channels, param=param, flow=flow))
        plan = f"{folder}/large-{name}"
        done = subprocess.run(
            [fusec, "compile", model, "--dtype", "bf16", "--plan", "unfused", "--out", plan,
             "--shape", f"B={SEQUENCES},T={length}"], capture_output=True, text=True)
        if done.returncode not in (0, 3):
            sys.exit(done.stderr)
        got = {}
        for which, batch, rows in [("all", SEQUENCES, ids), ("alone", 1, ids[first : first + LOOKED_AT])]:
            given, out = f"{folder}/{name}-{which}.in", f"{folder}/{name}-{which}.out"
            write_ids(given, batch, len(rows) // batch, rows)
            done = subprocess.run(
                [fusec, "run", model, "--weights", "random:1", "--device", device, "--plan-dir", plan,
                 "--input", given, "--output", out], capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"{name} {which}: status {done.returncode}\n{done.stderr}")
            got[which] = read_rows(out, first if which == "all" else 0, LOOKED_AT)
        equal = got["all"] == got["alone"] and len(set(got["alone"])) > 1
        failed |= not equal
        print(f"{'ok  ' if equal else 'FAIL'} {name}: {LOOKED_AT} rows from row {first} on, {time.time() - began:.1f} s")
    sys.exit(failed)


main()

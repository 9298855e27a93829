"""Cases of bench/cases whose inputs need gradients.

`fusec bench --training` computes gradients by parameters. Here every input is multiplied by a parameter of its own, so
that the gradients by all inputs are computed, and summed over tokens. That, and the cross-entropy over the last axis,
is in fusec's time and not in a peer's, which is handed the gradient of its output.
"""

import re

import tomllib


def with_gains(text):
    inputs = tomllib.loads(text)["input"]
    flow = re.search(r"flow = (\"\"\"\n|\")", text)
    lines = "".join(f"  {name} = {name} * gain_of_{name}\n" for name in inputs)
    if flow.group(1) == '"':
        text = re.sub(r'flow = "(.*)"', lambda found: f'flow = """\n{lines}  {found.group(1)}\n"""', text)
    else:
        text = text[: flow.end()] + lines + text[flow.end() :]
    gains = "".join(f'gain_of_{name} = {{ shape = "{axes}", init = 1 }}\n' for name, axes in inputs.items())
    if "[param]\n" in text:
        return text.replace("[param]\n", "[param]\n" + gains, 1)
    return text.replace("[model]\n", "[param]\n" + gains + "\n[model]\n", 1)

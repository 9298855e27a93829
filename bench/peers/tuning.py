"""Triton's tuning, kept out of what is timed: variants are compiled side by side before any is tried.

Triton compiles the variants of a kernel one after another when it is first called, a second each, dozens of
them. `side_by_side` compiles them in threads first. In a process that only prepares, variants are compiled and
none is timed: several such processes run at once, and what they would measure then would be worth nothing. Tuning
itself is done again, alone on the GPU, by the process that is timed; it finds its variants compiled.
"""

import os
from concurrent.futures import ThreadPoolExecutor

# Before fla is imported: what a preparing process took for the best variant must not be kept.
PREPARING = {"FLA_CACHE_RESULTS": "0"}


def side_by_side(preparing, threads=None):
    from triton.runtime import autotuner
    from triton.runtime._async_compile import AsyncCompileMode

    tuner = autotuner.Autotuner
    prune = tuner.prune_configs
    pool = ThreadPoolExecutor(threads or os.cpu_count())

    def prune_and_compile(self, kwargs):
        configs = prune(self, kwargs)
        given, named = list(self.nargs.values()), {name: value for name, value in kwargs.items() if name != "warmup"}
        with AsyncCompileMode(pool, ignore_errors=True):
            for config in configs:
                try:
                    self.fn.warmup(*given, **named, **config.all_kwargs())
                except Exception:  # A variant that does not fit is found again, and left out, by the tuner.
                    pass
        return configs

    tuner.prune_configs = prune_and_compile
    if preparing:
        # Launched once, so that a variant that does not fit is not the one that goes on.
        tuner.do_bench = property(lambda self: lambda call, quantiles=None: (call(), [1.0, 1.0, 1.0])[1])


def first_variant():
    """For Triton's interpreter, which can time nothing: the first variant of each kernel, and no device to choose."""
    import contextlib

    import torch
    from triton.runtime.autotuner import Autotuner

    def run(self, *args, **more):
        self.best_config = self.configs[0]
        return self.fn.run(*args, **{**self.configs[0].kwargs, **more})

    torch.cuda.device = lambda index: contextlib.nullcontext()
    tuners = [Autotuner]
    for tuner in tuners:
        tuner.run = run
        tuners.extend(tuner.__subclasses__())

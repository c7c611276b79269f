"""Benchmarks, one table each; what they printed is in docs/performance.md."""

import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # before their first import
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

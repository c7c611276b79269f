"""The sections of `bench.gpu`, each of which can run alone: `measure(section)` of each module."""

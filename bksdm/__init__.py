"""bksdm: small, fast text-to-image students out of large Stable Diffusion teachers, and the proof
that they are good.
"""

__version__ = "0.1.0"

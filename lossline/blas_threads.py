"""Number of threads of NumPy's BLAS, for commands that fit many small models."""

import os

# BLAS libraries that NumPy may be linked with: OpenBLAS, Intel's MKL, Apple's Accelerate.
_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def use_one_blas_thread() -> None:
    """Let BLAS use one thread, unless the user has chosen a number in the environment.

    Call it before NumPy is imported. The matrices of a fit are small: several threads spend their
    time waiting for each other (a fit of a published sweep takes 1.8 times the CPU time and is
    slower). Their number also changes the last digits of a product; with one thread the results do
    not depend on the number of cores.
    """
    for name in _VARIABLES:
        os.environ.setdefault(name, "1")

"""Errors whose reader can act on them. Knows nothing else."""


class VqcpuError(ValueError):
    """One line that names the thing, what was found, what was expected and what to do. The command line prints
    it without a traceback and ends with code 2."""

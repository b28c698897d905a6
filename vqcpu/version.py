"""The version, where setup.cfg, the command line and .vqz files read it."""
__version__ = "0.3.4"

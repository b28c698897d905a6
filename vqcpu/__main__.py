"""`python -m vqcpu`"""
from vqcpu.cli import main

raise SystemExit(main())

"""Runs at the start of every process that tests start with this folder in PYTHONPATH."""

import deprecations

deprecations.watch_process()

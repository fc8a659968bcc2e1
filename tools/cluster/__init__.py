"""Runs the stale part of the grid on many workers: on Slurm, or as a pool on this machine."""

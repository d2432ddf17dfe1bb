"""Runs and sweeps as jobs of a SLURM cluster: plain sbatch scripts, made and shown before they are handed over."""

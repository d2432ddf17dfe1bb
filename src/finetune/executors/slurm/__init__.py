"""Runs and sweeps as jobs of a SLURM cluster: plain sbatch scripts, checked by SLURM before they are submitted."""

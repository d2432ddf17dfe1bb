"""Where runs are executed: processes on this machine, or jobs of a SLURM cluster; one protocol for both."""

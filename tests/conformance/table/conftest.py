"""What is not collected: a framework is imported where the table runs on it, and nowhere else."""

collect_ignore_glob = ["on_*.py", "trajectory/on_*.py"]

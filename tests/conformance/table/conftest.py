"""What is not collected."""

collect_ignore_glob = ["on_*.py", "trajectory/on_*.py"]  # a framework is imported in its own process only

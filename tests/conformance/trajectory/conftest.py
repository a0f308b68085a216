"""What is not collected."""

collect_ignore_glob = ["on_*.py"]  # a back end that was not chosen is not imported, and Keras not in here

"""The tasks, one a file: data, published setting, metric and sizes."""

"""clipwise beside what people use today, in one table: ``python -m benchmarks``. See README.md here."""

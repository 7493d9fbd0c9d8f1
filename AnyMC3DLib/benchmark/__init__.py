"""Which model, adapted how, on how much data? Suites of trainings, their results in one table, and the report."""

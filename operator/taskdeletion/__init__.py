"""Task Deletion Operator: deletes what finished data-pipeline tasks leave behind, and says exactly what it did."""

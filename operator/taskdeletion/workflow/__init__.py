"""read -> decide -> perform -> record: what happens to a TaskDeletion, and what a TaskStore is found to be."""

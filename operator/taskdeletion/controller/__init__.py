"""Keys and times: the work queue and the workers that empty it. Knows nothing of deletions or of Kubernetes."""

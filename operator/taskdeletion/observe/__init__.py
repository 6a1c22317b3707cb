"""What people and monitoring see of the operator beside the status: log lines, audit lines, health."""

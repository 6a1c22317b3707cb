"""The development stack: a Kubernetes API, PostgreSQL, Redis and MinIO on this machine, without containers.

For tests, the demo and `make up`; the operator and its image never import it. `dev.stack.start_stack` is the way in.
"""

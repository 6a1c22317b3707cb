"""The only room that talks to the Kubernetes API: typed reads and writes of our kinds, Secrets, Events."""

"""What the tests share: Kubernetes objects, and the operator as a process."""

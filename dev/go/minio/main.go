// The MinIO server, as a module of our own so that go.sum pins it. Built by dev/build.py.
// MinIO is AGPL: it is a service for tests and the demo only and never part of the operator's image.
package main

import (
	"os"

	minio "github.com/minio/minio/cmd"
)

func main() {
	minio.Main(os.Args)
}

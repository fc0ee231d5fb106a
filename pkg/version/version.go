// Package version says what this build is. The variables are stamped by the
// Makefile (-ldflags -X) from scripts/versions.env, git and go.mod; a plain
// `go build` keeps the defaults.
package version

var (
	// Version of edgebox, without a leading v.
	Version = "0.0.0-dev"
	// Commit of the source, abbreviated.
	Commit = "unknown"
	// Kubernetes is the version of the Kubernetes within, with a leading v.
	Kubernetes = "unknown"
)

package main

import (
	"os"
	"testing"
)

func TestDocumentIsUpToDate(t *testing.T) {
	have, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != render() {
		t.Error("docs/configuration.md is stale: run `go generate ./pkg/config`")
	}
}

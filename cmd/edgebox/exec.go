package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/payload"
)

// self is this executable, also when its file was replaced since it started.
const self = "/proc/self/exe"

// unpack makes sure that the wanted files of the payload lie in dir, and returns the folder they are in.
func (f *front) unpack(dir string, want func(name string) bool) (binDir string, err error) {
	p, err := payload.Open(self)
	if errors.Is(err, payload.ErrNoPayload) {
		return "", exitError{failed, err.Error() + ": build the whole product with `make build`, and use bin/edgebox"}
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = p.Close() }()
	var names []string
	for _, file := range p.Files() {
		if want(file.Name) {
			names = append(names, file.Name)
		}
	}
	return p.Unpack(dir, names...)
}

// execute replaces this process. It returns only when that fails.
func execute(path string, argv, environ []string, stdin *os.File) error {
	if stdin != nil {
		if err := unix.Dup3(int(stdin.Fd()), 0, 0); err != nil {
			return fmt.Errorf("pass the configuration on: %w", err)
		}
	}
	err := unix.Exec(path, argv, environ)
	if errors.Is(err, unix.EACCES) {
		return fmt.Errorf("run %s: %w: is the file system of %s mounted noexec?", path, err, filepath.Dir(path))
	}
	return fmt.Errorf("run %s: %w", path, err)
}

// withoutSecrets is environ without the variables of secret options: the configuration holds their values now, and
// every process that the node starts would inherit them.
func withoutSecrets(environ []string) []string {
	secret := map[string]bool{}
	for _, o := range config.Options() {
		secret[o.Env] = o.Secret
	}
	var out []string
	for _, e := range environ {
		if name, _, _ := strings.Cut(e, "="); !secret[name] {
			out = append(out, e)
		}
	}
	return out
}

package balancer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/edgebox/edgebox/pkg/durable"
)

// recall reads the servers that remember wrote. Without a good file there are none: the user's server is a start.
func recall(file string) []string {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var addresses []string
	if err == nil {
		err = json.Unmarshal(text, &addresses)
	}
	for _, a := range addresses {
		if _, _, bad := net.SplitHostPort(a); bad != nil {
			err = fmt.Errorf("%q: %w", a, bad)
		}
	}
	if err != nil {
		slog.Warn("remembered servers cannot be read", "file", file, "err", err)
		return nil
	}
	return addresses
}

// remember writes the servers for the next start, unless the file has them already.
func remember(file string, addresses []string) error {
	addresses = slices.Sorted(slices.Values(addresses))
	if slices.Equal(recall(file), addresses) {
		return nil
	}
	text, err := json.Marshal(addresses)
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(file, append(text, '\n'), 0o600)
}

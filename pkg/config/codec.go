package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Encode writes c as JSON for Decode: how the front hands a resolved configuration to the node binary.
// It holds secrets.
func (c Config) Encode(w io.Writer) error {
	if err := json.NewEncoder(w).Encode(c); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

// File is c as Encode writes it, in a file without a name that ends with the processes that have it open: what becomes the
// standard input of the node binary.
func (c Config) File() (*os.File, error) {
	fd, err := unix.MemfdCreate("edgebox-config", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("pass the configuration on: %w", err)
	}
	file := os.NewFile(uintptr(fd), "edgebox-config")
	if err := c.Encode(file); err != nil {
		return nil, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return file, nil
}

// Decode reads what Encode wrote, and nothing else.
func Decode(r io.Reader) (Config, error) {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	var c Config
	if err := d.Decode(&c); err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Config{}, errors.New("read configuration: something follows it")
	}
	return c, nil
}

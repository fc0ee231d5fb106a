package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Encode writes c as JSON for Decode: how the front hands a resolved configuration to the node binary.
// It holds secrets.
func (c Config) Encode(w io.Writer) error {
	if err := json.NewEncoder(w).Encode(c); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
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

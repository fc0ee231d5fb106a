package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"

	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"
)

func (f *front) kubeconfig() *cli.Command {
	return &cli.Command{
		Name:  "kubeconfig",
		Usage: "print the administrator's kubeconfig",
		Description: `sudo edgebox kubeconfig > ~/.kube/config
sudo edgebox kubeconfig --server https://box.example.org:6443`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "server", Category: "URL", Usage: "address of the API to put in, for use on another machine", DefaultText: "loopback"},
			configFlag(),
		}, optionFlags("write-kubeconfig")...),
		Action: f.runKubeconfig,
	}
}

func (f *front) runKubeconfig(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	cfg := f.target(c)
	text, err := os.ReadFile(cfg.WriteKubeconfig)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no %s: the server writes it when it is started", cfg.WriteKubeconfig)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("you may not read %s: use sudo", cfg.WriteKubeconfig)
	case err != nil:
		return err
	}
	if server := c.String("server"); server != "" {
		u, err := url.Parse(server)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return misuse(c, "%q is not an address such as https://box.example.org:6443", server)
		}
		if text, err = withServer(text, server); err != nil {
			return fmt.Errorf("read %s: %w", cfg.WriteKubeconfig, err)
		}
	}
	_, err = f.stdout.Write(text)
	return err
}

// withServer replaces the address of the API in a kubeconfig.
func withServer(kubeconfig []byte, server string) ([]byte, error) {
	var doc map[string]any
	if err := yaml.Unmarshal(kubeconfig, &doc); err != nil {
		return nil, err
	}
	clusters, _ := doc["clusters"].([]any)
	for _, c := range clusters {
		entry, _ := c.(map[string]any)
		if cluster, ok := entry["cluster"].(map[string]any); ok {
			cluster["server"] = server
		}
	}
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(doc), e.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/edgebox/edgebox/pkg/config"
)

// image is an entry of the node's image store.
type image struct {
	Name    string            `json:"name"`
	Digest  string            `json:"digest"`
	Size    int64             `json:"size"` // bytes
	Created time.Time         `json:"created"`
	Labels  map[string]string `json:"labels"`
}

func (f *front) images() *cli.Command {
	return &cli.Command{
		Name:  "images",
		Usage: "list, import, export and remove the images on this machine",
		Subcommands: []*cli.Command{
			{
				Name:  "ls",
				Usage: "list images",
				Description: `edgebox images ls
edgebox images ls -q
edgebox images ls -o json`,
				Flags: []cli.Flag{
					outputFlag(),
					&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "also the names by digest that the kubelet keeps beside each tag"},
					&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "names only"},
				},
				Action: f.listImages,
			},
			{
				Name:      "import",
				Usage:     "import archives of `docker save` or in OCI layout, also compressed with gzip or zstd",
				ArgsUsage: "FILE...",
				Description: `edgebox images import app.tar
docker save app | edgebox images import -`,
				Action: f.importImages,
			},
			{
				Name:        "export",
				Usage:       "write images as one OCI archive",
				ArgsUsage:   "NAME...",
				Description: `edgebox images export -o app.tar docker.io/library/app:1`,
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Category: "FILE", Usage: "file to write", DefaultText: "standard output"},
				},
				Action: f.exportImages,
			},
			{
				Name:        "rm",
				Usage:       "remove images",
				ArgsUsage:   "NAME...",
				Description: `edgebox images rm docker.io/library/app:1`,
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "also those that are pinned or that pods on this machine need"},
				},
				Action: f.removeImages,
			},
		},
	}
}

func localNode() node { return nodeAt(config.Defaults().Paths().AdminSocket()) }

func (f *front) listImages(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	list := []image{}
	if err := localNode().get(c.Context, "/v1/images", &list); err != nil {
		return err
	}
	if !c.Bool("all") {
		list = tagged(list)
	}
	switch {
	case asJSON:
		return writeJSON(f.stdout, list)
	case c.Bool("quiet"):
		for _, i := range list {
			fmt.Fprintln(f.stdout, i.Name)
		}
		return nil
	}
	rows := [][]string{{"NAME", "DIGEST", "SIZE", "CREATED"}}
	for _, i := range list {
		rows = append(rows, []string{i.Name, shortDigest(i.Digest), size(i.Size), age(time.Since(i.Created)) + " ago"})
	}
	writeTable(f.stdout, rows)
	return nil
}

// tagged leaves out names that only repeat a digest which another name has too, as CRI makes two of for each image.
func tagged(list []image) []image {
	named := map[string]bool{}
	byDigest := func(i image) bool {
		return strings.HasPrefix(i.Name, "sha256:") || strings.Contains(i.Name, "@sha256:")
	}
	for _, i := range list {
		if !byDigest(i) {
			named[i.Digest] = true
		}
	}
	out := []image{}
	for _, i := range list {
		if !byDigest(i) || !named[i.Digest] && !strings.HasPrefix(i.Name, "sha256:") {
			out = append(out, i)
		}
	}
	return out
}

func shortDigest(d string) string {
	_, hex, _ := strings.Cut(d, ":")
	return hex[:min(12, len(hex))]
}

func (f *front) importImages(c *cli.Context) error {
	if !c.Args().Present() {
		return misuse(c, "name a file to import, or - for standard input")
	}
	for _, path := range c.Args().Slice() {
		names, err := f.importImage(c.Context, path)
		if err != nil {
			return fmt.Errorf("import %s: %w", path, err)
		}
		for _, n := range names {
			fmt.Fprintln(f.stdout, "imported", n)
		}
	}
	return nil
}

func (f *front) importImage(ctx context.Context, path string) (names []string, err error) {
	file := f.stdin
	if path == "-" {
		if isTerminal(file) {
			return nil, errors.New("standard input is a terminal: pipe an archive into it")
		}
	} else {
		if file, err = os.Open(path); err != nil {
			return nil, err.(*os.PathError).Err
		}
		defer func() { _ = file.Close() }()
	}
	total := int64(0)
	if info, err := file.Stat(); err == nil && info.Mode().IsRegular() {
		total = info.Size()
	}
	body, done := f.progress(file, "sent", total)
	defer done()
	answer, err := localNode().do(ctx, http.MethodPost, "/v1/images/import", nil, body)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Close() }()
	var imported []struct {
		Name string `json:"name"`
	}
	if err := json.NewDecoder(answer).Decode(&imported); err != nil {
		return nil, fmt.Errorf("read the answer of edgebox: %w", err)
	}
	for _, i := range imported {
		names = append(names, i.Name)
	}
	return names, nil
}

func (f *front) exportImages(c *cli.Context) error {
	if !c.Args().Present() {
		return misuse(c, "name an image to export: `edgebox images ls` lists them")
	}
	path := c.String("output")
	if path == "" && isTerminal(f.stdout) {
		return misuse(c, "an archive is nothing for a terminal: name a file with -o")
	}
	body, err := localNode().do(c.Context, http.MethodGet, "/v1/images/export", url.Values{"name": c.Args().Slice()}, nil)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	if path == "" {
		_, err := io.Copy(f.stdout, body)
		return err
	}
	from, done := f.progress(body, "received", 0)
	defer done()
	return writeWhole(path, from)
}

// writeWhole copies from into the file at path, which appears only when all of it is there.
func writeWhole(path string, from io.Reader) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(tmp, from)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

func (f *front) removeImages(c *cli.Context) error {
	if !c.Args().Present() {
		return misuse(c, "name an image to remove: `edgebox images ls` lists them")
	}
	var errs []error
	for _, name := range c.Args().Slice() {
		query := url.Values{"name": {name}}
		if c.Bool("force") {
			query.Set("force", "true")
		}
		answer, err := localNode().do(c.Context, http.MethodDelete, "/v1/images", query, nil)
		if errors.Is(err, errNotRunning) {
			return err
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", name, err))
			continue
		}
		_ = answer.Close()
		fmt.Fprintln(f.stdout, "removed", name)
	}
	return errors.Join(errs...)
}

// progress shows on a terminal how much of r was read. The caller calls done at the end.
func (f *front) progress(r io.Reader, verb string, total int64) (io.Reader, func()) {
	if !isTerminal(f.stderr) {
		return r, func() {}
	}
	of := ""
	if total > 0 {
		of = " of " + size(total)
	}
	p := &progressReader{r: r, show: func(n int64) { fmt.Fprintf(f.stderr, "\r\x1b[K%s %s%s", verb, size(n), of) }}
	return p, func() { fmt.Fprint(f.stderr, "\r\x1b[K") }
}

type progressReader struct {
	r     io.Reader
	n     int64
	shown time.Time
	show  func(int64)
}

func (p *progressReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.n += int64(n)
	if time.Since(p.shown) > 200*time.Millisecond || err != nil {
		p.shown = time.Now()
		p.show(p.n)
	}
	return n, err
}

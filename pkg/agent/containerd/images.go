package containerd

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
)

// Labels of CRI on images: that it knows the image, and that the kubelet must not collect it.
const (
	labelManaged = "io.cri-containerd.image"
	labelPinned  = "io.cri-containerd.pinned"
)

// Image is an entry of the image store.
type Image struct {
	Name    string            `json:"name"`
	Digest  string            `json:"digest"`
	Size    int64             `json:"size"` // bytes of its compressed content on this machine
	Created time.Time         `json:"created"`
	Labels  map[string]string `json:"labels,omitempty"`
}

// Images lists the store, by name.
func (c *Containerd) Images(ctx context.Context) ([]Image, error) {
	ctx = namespaces.WithNamespace(ctx, namespace)
	list, err := c.client.ListImages(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Image, 0, len(list))
	for _, i := range list {
		size, err := i.Size(ctx)
		if err != nil && !errdefs.IsNotFound(err) { // content may be partial: another platform's
			return nil, fmt.Errorf("size of %s: %w", i.Name(), err)
		}
		m := i.Metadata()
		out = append(out, Image{Name: m.Name, Digest: m.Target.Digest.String(), Size: size, Created: m.CreatedAt, Labels: m.Labels})
	}
	slices.SortFunc(out, func(a, b Image) int { return compare(a.Name, b.Name) })
	return out, nil
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// ImportImages reads a tar of docker save or of an OCI layout, plain, gzip or zstd, and returns the names it holds for
// this machine's platform. They are unpacked, so that a container starts at once.
func (c *Containerd) ImportImages(ctx context.Context, r io.Reader) ([]string, error) {
	return c.importImages(ctx, r, map[string]string{labelManaged: "managed"})
}

func (c *Containerd) importImages(ctx context.Context, r io.Reader, labels map[string]string) ([]string, error) {
	ctx = namespaces.WithNamespace(ctx, namespace)
	tar, err := compression.DecompressStream(r)
	if err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	defer tar.Close()
	imgs, err := c.client.Import(ctx, tar, client.WithImportPlatform(platforms.Default()), client.WithImageLabels(labels))
	if err != nil {
		return nil, fmt.Errorf("import archive: %w", err)
	}
	if len(imgs) == 0 {
		return nil, fmt.Errorf("the archive names no image: save it with a name, as in docker save NAME:TAG: %w", errdefs.ErrInvalidArgument)
	}
	var names []string
	for _, i := range imgs {
		img := client.NewImageWithPlatform(c.client, i, platforms.Default())
		if err := img.Unpack(ctx, defaults.DefaultSnapshotter); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", i.Name, err)
		}
		names = append(names, i.Name)
	}
	return names, nil
}

// ExportImages writes an archive of the named images, readable by docker load and as an OCI layout.
func (c *Containerd) ExportImages(ctx context.Context, w io.Writer, names []string) error {
	ctx = namespaces.WithNamespace(ctx, namespace)
	opts := []archive.ExportOpt{archive.WithPlatform(platforms.Default())}
	for _, n := range names {
		if _, err := c.client.GetImage(ctx, n); err != nil {
			return err
		}
		opts = append(opts, archive.WithImage(c.client.ImageService(), n))
	}
	return c.client.Export(ctx, w, opts...)
}

// RemoveImage deletes a name; content that nothing refers to any more is collected before it returns.
func (c *Containerd) RemoveImage(ctx context.Context, name string) error {
	ctx = namespaces.WithNamespace(ctx, namespace)
	return c.client.ImageService().Delete(ctx, name, images.SynchronousDelete())
}

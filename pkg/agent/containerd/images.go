package containerd

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/diff"
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

// open returns the client, and ctx for the namespace.
func (c *Containerd) open(ctx context.Context) (context.Context, *client.Client, error) {
	cl := c.client.Load()
	if cl == nil {
		return nil, nil, fmt.Errorf("containerd has not started yet: %w", errdefs.ErrUnavailable)
	}
	return namespaces.WithNamespace(ctx, namespace), cl, nil
}

// Images lists the store, by name.
func (c *Containerd) Images(ctx context.Context) ([]Image, error) {
	ctx, cl, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	list, err := cl.ListImages(ctx)
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
	slices.SortFunc(out, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// ImportImages reads a tar of docker save or of an OCI layout, plain, gzip or zstd, and returns the names it holds for
// this machine's platform. They are unpacked, so that a container starts at once.
func (c *Containerd) ImportImages(ctx context.Context, r io.Reader) ([]string, error) {
	return c.importImages(ctx, r, map[string]string{labelManaged: "managed"})
}

func (c *Containerd) importImages(ctx context.Context, r io.Reader, labels map[string]string) ([]string, error) {
	ctx, cl, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	tar, err := compression.DecompressStream(r)
	if err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	defer tar.Close()
	imgs, err := cl.Import(ctx, tar, client.WithImportPlatform(platforms.Default()), client.WithImageLabels(labels))
	if err != nil {
		return nil, fmt.Errorf("import archive: %w", err)
	}
	if len(imgs) == 0 {
		return nil, fmt.Errorf("the archive names no image: save it with a name, as in docker save NAME:TAG: %w", errdefs.ErrInvalidArgument)
	}
	var names []string
	for _, i := range imgs {
		img := client.NewImageWithPlatform(cl, i, platforms.Default())
		// What containerd notes down about the snapshot is durable at once, so its files have to be as well.
		if err := img.Unpack(ctx, defaults.DefaultSnapshotter, client.WithUnpackApplyOpts(diff.WithSyncFs(true))); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", i.Name, err)
		}
		names = append(names, i.Name)
	}
	return names, nil
}

// ExportImages writes an archive of the named images, readable by docker load and as an OCI layout.
func (c *Containerd) ExportImages(ctx context.Context, w io.Writer, names []string) error {
	ctx, cl, err := c.open(ctx)
	if err != nil {
		return err
	}
	opts := []archive.ExportOpt{archive.WithPlatform(platforms.Default())}
	for _, n := range names {
		if _, err := cl.GetImage(ctx, n); err != nil {
			return err
		}
		opts = append(opts, archive.WithImage(cl.ImageService(), n))
	}
	return cl.Export(ctx, w, opts...)
}

// RemoveImage deletes a name; content that nothing refers to any more is collected before it returns.
func (c *Containerd) RemoveImage(ctx context.Context, name string) error {
	ctx, cl, err := c.open(ctx)
	if err != nil {
		return err
	}
	return cl.ImageService().Delete(ctx, name, images.SynchronousDelete())
}

package containerd

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ensurePauseImage puts the sandbox image into the store unless this very build of it is there.
func (c *Containerd) ensurePauseImage(ctx context.Context) error {
	program, err := os.ReadFile(filepath.Join(c.paths.Helpers(), "pause"))
	if err != nil {
		return err
	}
	archive, manifest, err := pauseArchive(program)
	if err != nil {
		return err
	}
	nsCtx, cl, err := c.open(ctx)
	if err != nil {
		return err
	}
	if img, err := cl.GetImage(nsCtx, PauseImage); err == nil && img.Target().Digest == manifest {
		if ok, err := img.IsUnpacked(nsCtx, "overlayfs"); err == nil && ok {
			return nil
		}
	}
	_, err = c.importImages(ctx, bytes.NewReader(archive), map[string]string{labelManaged: "managed", labelPinned: "pinned"})
	return err
}

// pauseArchive is an OCI layout in a tar with one image of one layer of one file. The same program gives the same
// digest of the manifest on every machine.
func pauseArchive(program []byte) (archive []byte, manifest digest.Digest, err error) {
	layer, err := tarOf([]file{{"pause", program, 0o755}})
	if err != nil {
		return nil, "", err
	}
	conf, err := json.Marshal(ocispec.Image{
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   ocispec.ImageConfig{Entrypoint: []string{"/pause"}, User: "65535:65535"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	})
	if err != nil {
		return nil, "", err
	}
	man, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    descriptor(ocispec.MediaTypeImageConfig, conf),
		Layers:    []ocispec.Descriptor{descriptor(ocispec.MediaTypeImageLayer, layer)},
	})
	if err != nil {
		return nil, "", err
	}
	desc := descriptor(ocispec.MediaTypeImageManifest, man)
	desc.Annotations = map[string]string{"io.containerd.image.name": PauseImage}
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{desc}})
	if err != nil {
		return nil, "", err
	}
	files := []file{
		{ocispec.ImageLayoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644},
		{ocispec.ImageIndexFile, index, 0o644},
	}
	for _, blob := range [][]byte{layer, conf, man} {
		files = append(files, file{"blobs/sha256/" + digest.FromBytes(blob).Encoded(), blob, 0o644})
	}
	archive, err = tarOf(files)
	return archive, desc.Digest, err
}

func descriptor(mediaType string, blob []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
}

type file struct {
	name string
	data []byte
	mode int64
}

func tarOf(files []file) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Size: int64(len(f.data)), Mode: f.mode, ModTime: time.Unix(0, 0)}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

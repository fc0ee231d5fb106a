package containerd

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func untar(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.FileInfo().Mode().Perm()&0o444 != 0o444 {
			t.Errorf("%s has mode %o: the sandbox does not run as root", h.Name, h.Mode)
		}
		files[h.Name] = data
	}
}

// TestPauseArchive reads the archive as a registry client would. Source: OCI image-spec v1.1, image-layout.md.
func TestPauseArchive(t *testing.T) {
	program := []byte("\x7fELF …")
	archive, manifest, err := pauseArchive(program)
	if err != nil {
		t.Fatal(err)
	}
	if again, _, _ := pauseArchive(program); !bytes.Equal(again, archive) {
		t.Error("the same program gave another archive")
	}
	if _, other, _ := pauseArchive([]byte("another")); other == manifest {
		t.Error("another program gave the same image")
	}

	files := untar(t, archive)
	decode := func(what string, data []byte, into any) {
		t.Helper()
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	blob := func(d ocispec.Descriptor) []byte {
		t.Helper()
		data, ok := files["blobs/sha256/"+d.Digest.Encoded()]
		if !ok || digest.FromBytes(data) != d.Digest || int64(len(data)) != d.Size {
			t.Fatalf("blob %s (%s) is missing or another: %d bytes", d.Digest, d.MediaType, len(data))
		}
		return data
	}
	var layout ocispec.ImageLayout
	decode("oci-layout", files[ocispec.ImageLayoutFile], &layout)
	if layout.Version != ocispec.ImageLayoutVersion {
		t.Errorf("layout version %s", layout.Version)
	}
	var index ocispec.Index
	decode("index.json", files[ocispec.ImageIndexFile], &index)
	if len(index.Manifests) != 1 || index.Manifests[0].Digest != manifest || index.Manifests[0].Annotations["io.containerd.image.name"] != PauseImage {
		t.Fatalf("index: %s", files[ocispec.ImageIndexFile])
	}
	var man ocispec.Manifest
	decode("manifest", blob(index.Manifests[0]), &man)
	var conf ocispec.Image
	decode("config", blob(man.Config), &conf)
	layer := blob(man.Layers[0])
	if len(man.Layers) != 1 || len(conf.RootFS.DiffIDs) != 1 || conf.RootFS.DiffIDs[0] != digest.FromBytes(layer) {
		t.Errorf("the layer is not that of the config: %v", conf.RootFS)
	}
	if conf.OS != "linux" || conf.Architecture != runtime.GOARCH || !platforms.Default().Match(conf.Platform) {
		t.Errorf("platform %s", platforms.Format(conf.Platform))
	}
	if got := untar(t, layer); len(got) != 1 || !bytes.Equal(got[strings.TrimPrefix(conf.Config.Entrypoint[0], "/")], program) {
		t.Errorf("the layer has not the program that the config starts, %v", conf.Config.Entrypoint)
	}
}

// TestImagesBeforeStart: `edgebox images` may come at any moment of a boot.
func TestImagesBeforeStart(t *testing.T) {
	c, ctx := &Containerd{}, context.Background()
	_, list := c.Images(ctx)
	_, imported := c.ImportImages(ctx, strings.NewReader(""))
	for what, err := range map[string]error{"list": list, "import": imported, "export": c.ExportImages(ctx, io.Discard, []string{"a"}), "remove": c.RemoveImage(ctx, "a", false)} {
		if !errdefs.IsUnavailable(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

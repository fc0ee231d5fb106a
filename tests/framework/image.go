package framework

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// Image is a container image of one layer.
type Image struct {
	Ref        string            // such as web:1
	Files      map[string]string // path in the image → file on the machine; all are executable
	Dirs       []string
	Links      map[string]string // path in the image → target
	Entrypoint []string
	Cmd        []string
	Env        []string // NAME=VALUE
}

// imagePath is the PATH that Docker gives images.
const imagePath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Busybox is the image busybox:e2e: busybox' applets in /bin, and a shell as command.
func Busybox() Image {
	links := make(map[string]string)
	applets, _ := exec.Command(busybox, "--list").Output()
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "busybox" {
			links["bin/"+applet] = "busybox"
		}
	}
	return Image{
		Ref: "busybox:e2e", Files: map[string]string{"bin/busybox": busybox}, Links: links,
		Dirs: []string{"etc", "root", "tmp", "var"}, Cmd: []string{"sh"},
	}
}

// Web is the image that images/web describes, as web:VERSION. The server tells its version.
func Web(version string) (Image, error) {
	bin, err := GoBinary("./images/web")
	if err != nil {
		return Image{}, err
	}
	return Image{
		Ref: "web:" + version, Files: map[string]string{"web": bin},
		Entrypoint: []string{"/web"}, Env: []string{"VERSION=" + version},
	}, nil
}

var goBinaries struct {
	sync.Mutex
	built map[string]string
}

// GoBinary builds a main package of the repository as a static binary and returns its path. The package is named as
// seen from the repository's root.
func GoBinary(pkg string) (string, error) {
	goBinaries.Lock()
	defer goBinaries.Unlock()
	r, err := theRun()
	if err != nil {
		return "", err
	}
	if bin, ok := goBinaries.built[pkg]; ok {
		return bin, nil
	}
	bin := filepath.Join(r.dir, "go-"+path.Base(pkg))
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", bin, pkg)
	cmd.Dir = repository()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	if goBinaries.built == nil {
		goBinaries.built = make(map[string]string)
	}
	goBinaries.built[pkg] = bin
	return bin, nil
}

// WriteArchive writes the image in the format of `docker save`. The same image gives the same bytes.
func (i Image) WriteArchive(w io.Writer) error {
	layer, err := i.layer()
	if err != nil {
		return fmt.Errorf("image %s: %w", i.Ref, err)
	}
	layerName := fmt.Sprintf("%x", sha256.Sum256(layer))
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"created":      "1970-01-01T00:00:00Z",
		"config": map[string]any{
			"Entrypoint": i.Entrypoint, "Cmd": i.Cmd, "Env": append([]string{imagePath}, i.Env...), "WorkingDir": "/",
		},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + layerName}},
		"history": []any{map[string]any{"created": "1970-01-01T00:00:00Z", "created_by": "edgebox tests"}},
	})
	if err != nil {
		return err
	}
	configName := fmt.Sprintf("%x.json", sha256.Sum256(config))
	manifest, err := json.Marshal([]any{map[string]any{
		"Config": configName, "RepoTags": []string{i.Ref}, "Layers": []string{layerName + "/layer.tar"},
	}})
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	for _, f := range []struct {
		name string
		data []byte
	}{{configName, config}, {layerName + "/layer.tar", layer}, {"manifest.json", manifest}} {
		if err := tw.WriteHeader(&tar.Header{Name: f.name, Size: int64(len(f.data)), Mode: 0o644}); err != nil {
			return err
		}
		if _, err := tw.Write(f.data); err != nil {
			return err
		}
	}
	return tw.Close()
}

func (i Image) layer() ([]byte, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	made := make(map[string]bool)
	var mkdir func(dir string) error
	mkdir = func(dir string) error {
		if dir == "." || made[dir] {
			return nil
		}
		made[dir] = true
		if err := mkdir(path.Dir(dir)); err != nil {
			return err
		}
		mode := int64(0o755)
		if dir == "tmp" {
			mode = 0o1777
		}
		return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: mode})
	}
	for _, dir := range i.Dirs {
		if err := mkdir(dir); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(i.Files)) {
		if err := mustBeStatic(i.Files[name]); err != nil {
			return nil, err
		}
		data, err := os.ReadFile(i.Files[name])
		if err != nil {
			return nil, err
		}
		if err := mkdir(path.Dir(name)); err != nil {
			return nil, err
		}
		if err := tw.WriteHeader(&tar.Header{Name: name, Size: int64(len(data)), Mode: 0o755}); err != nil {
			return nil, err
		}
		if _, err := tw.Write(data); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(i.Links)) {
		if err := mkdir(path.Dir(name)); err != nil {
			return nil, err
		}
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: i.Links[name], Mode: 0o777}); err != nil {
			return nil, err
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

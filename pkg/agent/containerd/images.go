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
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
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

// RemoveImage deletes a name. With the last tag of an image go the names by digest that CRI keeps beside it, and content
// that nothing refers to any more is collected before RemoveImage returns. It refuses to take away what is pinned or what a
// pod would start its containers from again, unless force is set: containers go on without their image. The sandbox image
// always stays, since no pod starts without it.
func (c *Containerd) RemoveImage(ctx context.Context, name string, force bool) error {
	ctx, cl, err := c.open(ctx)
	if err != nil {
		return err
	}
	store := cl.ImageService()
	img, err := store.Get(ctx, name)
	if err != nil {
		return err
	}
	same, err := store.List(ctx, fmt.Sprintf("target.digest==%q", img.Target.Digest))
	if err != nil {
		return err
	}
	r := removalOf(img, same)
	if r.sandbox {
		return errdefs.ErrFailedPrecondition.WithMessage("every pod needs this image to start, so it stays")
	}
	if !force {
		if r.pinned {
			return errdefs.ErrFailedPrecondition.WithMessage("the image is pinned: use --force if nothing will need it again")
		}
		var id digest.Digest
		if r.last {
			if id, err = idOf(ctx, cl, img); err != nil {
				return err
			}
		}
		users, err := c.usersOf(ctx, name, id)
		if err != nil {
			return err
		}
		if len(users) > 0 {
			return errdefs.ErrFailedPrecondition.WithMessage("the image is in use by " + enumerate(users) +
				": delete that first, or use --force, after which it runs on but may not start again")
		}
	}
	for i, n := range r.names {
		var opts []images.DeleteOpt
		if i == len(r.names)-1 {
			opts = append(opts, images.SynchronousDelete())
		}
		if err := store.Delete(ctx, n, opts...); err != nil && (n == name || !errdefs.IsNotFound(err)) {
			return err
		}
	}
	return nil
}

// removal is what the removal of one name means.
type removal struct {
	names   []string // to delete, in this order
	last    bool     // no tag is left
	sandbox bool     // it would take the sandbox image away
	pinned  bool     // it would take away what something has pinned
}

// removalOf looks at all names of an image, the one to remove among them.
func removalOf(img images.Image, same []images.Image) removal {
	isTag := func(i images.Image) bool {
		return !strings.HasPrefix(i.Name, "sha256:") && !strings.Contains(i.Name, "@")
	}
	going := []images.Image{img}
	if !slices.ContainsFunc(same, func(i images.Image) bool { return i.Name != img.Name && isTag(i) }) {
		going = same
	}
	r := removal{last: len(going) == len(same)}
	for _, i := range going {
		r.sandbox = r.sandbox || i.Name == PauseImage
		r.pinned = r.pinned || i.Labels[labelPinned] != ""
		if i.Name != img.Name {
			r.names = append(r.names, i.Name)
		}
	}
	r.names = append(r.names, img.Name) // the one that the user knows goes last: until then the command can be repeated
	return r
}

// idOf is the digest of an image's configuration, which CRI calls its id; empty where the image is of another platform.
func idOf(ctx context.Context, cl *client.Client, img images.Image) (digest.Digest, error) {
	conf, err := client.NewImageWithPlatform(cl, img, platforms.Default()).Config(ctx)
	if errdefs.IsNotFound(err) {
		return "", nil
	}
	return conf.Digest, err
}

// usersOf names the living pods with a container of the image of that name or, unless it is empty, of that id.
func (c *Containerd) usersOf(ctx context.Context, name string, id digest.Digest) ([]string, error) {
	conn, err := grpc.NewClient("unix://"+c.paths.ContainerdSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	runtime := cri.NewRuntimeServiceClient(conn)
	pods, err := runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{
		Filter: &cri.PodSandboxFilter{State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}}})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	containers, err := runtime.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	return users(name, id, pods.Items, containers.Containers), nil
}

// users names those of the pods that have a container of the image. One that has ended counts: the pod may start it again.
func users(name string, id digest.Digest, pods []*cri.PodSandbox, containers []*cri.Container) []string {
	var of []string
	for _, c := range containers {
		byID, byName := id != "" && c.ImageId == id.String(), fullName(c.Image.GetUserSpecifiedImage()) == name
		if !byID && !byName {
			continue
		}
		if i := slices.IndexFunc(pods, func(p *cri.PodSandbox) bool { return p.Id == c.PodSandboxId }); i >= 0 {
			of = append(of, "pod "+pods[i].Metadata.GetNamespace()+"/"+pods[i].Metadata.GetName())
		}
	}
	slices.Sort(of)
	return slices.Compact(of)
}

// fullName is a name of an image as containerd has it: busybox is docker.io/library/busybox:latest.
func fullName(name string) string {
	if ref, err := reference.ParseDockerRef(name); err == nil {
		return ref.String()
	}
	return name
}

// enumerate lists a few of many.
func enumerate(names []string) string {
	const few = 3
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}

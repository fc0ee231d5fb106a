package containerd

import (
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestRemovalOf(t *testing.T) {
	const digest = "app@sha256:7777"
	pinned := map[string]string{labelPinned: "pinned"}
	named := func(names ...string) (all []images.Image) {
		for _, n := range names {
			all = append(all, images.Image{Name: n})
		}
		return all
	}
	for _, tt := range []struct {
		what            string
		name            string
		same            []images.Image
		names           []string
		last            bool
		sandbox, pinned bool
	}{
		{"the only name", "app:1", named("app:1"), []string{"app:1"}, true, false, false},
		{"the last tag takes along what CRI made", "app:1", named(digest, "app:1", "sha256:42"), []string{digest, "sha256:42", "app:1"}, true, false, false},
		{"one of two tags", "app:1", named(digest, "app:1", "app:2", "sha256:42"), []string{"app:1"}, false, false, false},
		{"a digest beside a tag", digest, named(digest, "app:1", "sha256:42"), []string{digest}, false, false, false},
		{"a digest without a tag", digest, named(digest, "sha256:42"), []string{"sha256:42", digest}, true, false, false},
		{"a pinned tag", "app:1", append(named("app:2"), images.Image{Name: "app:1", Labels: pinned}), []string{"app:1"}, false, false, true},
		{"a pinned digest with the last tag", "app:1", append(named("app:1"), images.Image{Name: digest, Labels: pinned}), []string{digest, "app:1"}, true, false, true},
		{"a pinned tag stays", "app:1", append(named("app:1"), images.Image{Name: "app:2", Labels: pinned}), []string{"app:1"}, false, false, false},
		{"the sandbox image", PauseImage, named("pause:mine", PauseImage), []string{PauseImage}, false, true, false},
		{"another tag of the sandbox image", "pause:mine", named("pause:mine", PauseImage), []string{"pause:mine"}, false, false, false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			img := tt.same[slices.IndexFunc(tt.same, func(i images.Image) bool { return i.Name == tt.name })]
			r := removalOf(img, tt.same)
			if !slices.Equal(r.names, tt.names) || r.last != tt.last || r.sandbox != tt.sandbox || r.pinned != tt.pinned {
				t.Errorf("%+v, want %v, %v, %v, %v", r, tt.names, tt.last, tt.sandbox, tt.pinned)
			}
		})
	}
}

func TestUsers(t *testing.T) {
	pods := []*cri.PodSandbox{
		{Id: "p1", Metadata: &cri.PodSandboxMetadata{Namespace: "default", Name: "web"}},
		{Id: "p2", Metadata: &cri.PodSandboxMetadata{Namespace: "team", Name: "db"}},
	}
	container := func(pod, image, id string) *cri.Container {
		return &cri.Container{PodSandboxId: pod, Image: &cri.ImageSpec{Image: id, UserSpecifiedImage: image}, ImageId: id}
	}
	containers := []*cri.Container{
		container("p1", "app", "sha256:1"), container("p1", "app", "sha256:1"), container("p2", "box:5000/app:2", "sha256:1"),
		container("p2", "other", "sha256:2"), container("ended", "job", "sha256:3"),
	}
	for _, tt := range []struct {
		name string
		id   digest.Digest
		want []string
	}{
		{"docker.io/library/app:latest", "", []string{"pod default/web"}},
		{"box:5000/app:2", "", []string{"pod team/db"}},
		{"box:5000/app:3", "", nil}, // another tag of the same image, which stays
		{"box:5000/app:3", "sha256:1", []string{"pod default/web", "pod team/db"}},
		{"docker.io/library/job:latest", "sha256:3", nil},
	} {
		if got := users(tt.name, tt.id, pods, containers); !slices.Equal(got, tt.want) {
			t.Errorf("%s, %s: %v, want %v", tt.name, tt.id, got, tt.want)
		}
	}
}

func TestEnumerate(t *testing.T) {
	for want, names := range map[string][]string{
		"a": {"a"}, "a, b, c": {"a", "b", "c"}, "a, b, c and 2 more": {"a", "b", "c", "d", "e"},
	} {
		if got := enumerate(names); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

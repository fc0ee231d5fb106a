package containerd

import (
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
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
		sandbox, pinned bool
	}{
		{"the only name", "app:1", named("app:1"), []string{"app:1"}, false, false},
		{"the last tag takes along what CRI made", "app:1", named(digest, "app:1", "sha256:42"), []string{digest, "sha256:42", "app:1"}, false, false},
		{"one of two tags", "app:1", named(digest, "app:1", "app:2", "sha256:42"), []string{"app:1"}, false, false},
		{"a digest beside a tag", digest, named(digest, "app:1", "sha256:42"), []string{digest}, false, false},
		{"a digest without a tag", digest, named(digest, "sha256:42"), []string{"sha256:42", digest}, false, false},
		{"a pinned tag", "app:1", append(named("app:2"), images.Image{Name: "app:1", Labels: pinned}), []string{"app:1"}, false, true},
		{"a pinned digest with the last tag", "app:1", append(named("app:1"), images.Image{Name: digest, Labels: pinned}), []string{digest, "app:1"}, false, true},
		{"a pinned tag stays", "app:1", append(named("app:1"), images.Image{Name: "app:2", Labels: pinned}), []string{"app:1"}, false, false},
		{"the sandbox image", PauseImage, named("pause:mine", PauseImage), []string{PauseImage}, true, false},
		{"another tag of the sandbox image", "pause:mine", named("pause:mine", PauseImage), []string{"pause:mine"}, false, false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			img := tt.same[slices.IndexFunc(tt.same, func(i images.Image) bool { return i.Name == tt.name })]
			r := removalOf(img, tt.same)
			if !slices.Equal(r.names, tt.names) || r.sandbox != tt.sandbox || r.pinned != tt.pinned {
				t.Errorf("%+v, want %v, %v, %v", r, tt.names, tt.sandbox, tt.pinned)
			}
		})
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

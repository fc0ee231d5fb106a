package upstream

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"k8s.io/klog/v2"

	"github.com/edgebox/edgebox/pkg/component"
)

// speaker is an upstream component that speaks in a goroutine of its own.
type speaker struct {
	name  string
	speak func(klog.Logger)
}

func (s speaker) Name() string { return s.name }

func (s speaker) Run(ctx context.Context, ready func()) error {
	ready()
	go func() {
		s.speak(klog.FromContext(Named(ctx, s.name)))
		panic("where os.Exit would be")
	}()
	<-ctx.Done()
	return nil
}

func TestLastWords(t *testing.T) {
	var out bytes.Buffer
	klog.SetSlogLogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn})))
	defer klog.ClearLogger()
	for name, tt := range map[string]struct {
		speaker speaker
		want    string
		logged  string
	}{
		"an error": {speaker{"kubelet", func(l klog.Logger) {
			l.WithName("server").WithValues("port", 1).Error(errors.New("in use"), "Failed to listen and serve")
		}}, "kubelet failed: Failed to listen and serve: in use", `msg="Failed to listen and serve"`},
		"no error": {speaker{"kubelet", func(l klog.Logger) {
			l.Error(nil, "The currently active client certificate has expired and the server is responsive, exiting.")
		}}, "kubelet failed: The currently active client certificate has expired and the server is responsive, exiting.", "component=kubelet"},
		"information": {speaker{"kube-scheduler", func(l klog.Logger) {
			l.Info("Requested to terminate, exiting")
		}}, "kube-scheduler failed: Requested to terminate, exiting", ""},
	} {
		var g component.Graph
		g.Add(tt.speaker)
		out.Reset()
		if err := g.Run(t.Context()); err == nil || err.Error() != tt.want {
			t.Errorf("%s: the error is %v, want %s", name, err, tt.want)
		}
		if !strings.Contains(out.String(), tt.logged) || tt.logged == "" && out.Len() > 0 {
			t.Errorf("%s: the log has %q", name, out.String())
		}
	}
}

func TestOtherWords(t *testing.T) {
	for _, name := range []string{"kubelet", "kube-proxy"} {
		ctx, cancel := context.WithCancel(t.Context())
		var g component.Graph
		g.Add(speaker{name, func(l klog.Logger) {
			l.Info("Starting")
			l.Error(errors.New("refused"), "Failed to reach it")
			if name == "kube-proxy" {
				l.Error(errors.New("refused"), "Failed to listen and serve") // of which only the kubelet dies
			}
			cancel() // the test's success
			select {}
		}})
		if err := g.Run(ctx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

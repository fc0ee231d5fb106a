package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/klog/v2"

	"github.com/edgebox/edgebox/pkg/component"
)

// LastWords are what upstream components say right before they call os.Exit, which would end all of edgebox with none
// of the others stopped and, while it boots, without a word. A test compares them with upstream's source.
var LastWords = map[string][]string{
	"kubelet": {
		"Failed to start cAdvisor",
		"Kubelet failed to get node info",
		"Failed to start ContainerManager",
		"Failed to initialize internal modules",
		"Failed to listen and serve",
		"Failed to create listener for podResources endpoint",
		"Failed to create listener for pods API endpoint",
		"Failed to serve",
		"Failed to register CRI auth plugins",
		"No valid client certificate is found and the server is responsive, exiting.",
		"The currently active client certificate has expired and the server is responsive, exiting.",
	},
	"kube-scheduler": {"Requested to terminate, exiting"}, // after an election, when it is stopped
}

// Named returns ctx with a logger that tells which upstream component speaks. The logger does not return from the
// component's last words: instead of the process, the component ends.
func Named(ctx context.Context, name string) context.Context {
	logger := klog.Background()
	if words := LastWords[name]; words != nil {
		logger = logger.WithSink(sink{logger.GetSink(), ctx, words})
	}
	return klog.NewContext(ctx, logger.WithValues("component", name))
}

// sink watches for last words.
type sink struct {
	klog.LogSink
	ctx       context.Context
	lastWords []string
}

// Enabled lets last words through that are mere information.
func (s sink) Enabled(level int) bool { return level == 0 || s.LogSink.Enabled(level) }

func (s sink) Info(level int, msg string, keysAndValues ...any) {
	if s.LogSink.Enabled(level) {
		s.LogSink.Info(level, msg, keysAndValues...)
	}
	if slices.Contains(s.lastWords, msg) {
		component.Exit(s.ctx, errors.New(msg))
	}
}

func (s sink) Error(err error, msg string, keysAndValues ...any) {
	s.LogSink.Error(err, msg, keysAndValues...)
	if !slices.Contains(s.lastWords, msg) {
		return
	}
	if err == nil {
		component.Exit(s.ctx, errors.New(msg))
	}
	component.Exit(s.ctx, fmt.Errorf("%s: %w", msg, err))
}

func (s sink) WithName(name string) klog.LogSink {
	return sink{s.LogSink.WithName(name), s.ctx, s.lastWords}
}

func (s sink) WithValues(keysAndValues ...any) klog.LogSink {
	return sink{s.LogSink.WithValues(keysAndValues...), s.ctx, s.lastWords}
}

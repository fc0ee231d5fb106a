// Package containerd runs containerd's plugin graph, with its CRI plugin, in the process of edgebox. It is the only
// importer of containerd's plugins.
//
// It owns <data>/agent/containerd, <run>/containerd, the sandbox image, and the one store of images: containerd's
// namespace k8s.io. Shims and their containers outlive it.
package containerd

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/cmd/containerd/server"
	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/edgebox/edgebox/pkg/component"
	"github.com/edgebox/edgebox/pkg/config"
	"github.com/edgebox/edgebox/pkg/durable"
)

// namespace is the one containerd namespace that CRI, the engine and the registry share.
const namespace = "k8s.io"

// Containerd is the component. It can run once in a process, since containerd's plugins register globally.
type Containerd struct {
	paths  config.Paths
	client atomic.Pointer[client.Client] // of this very process, without a socket between; set while the plugins start
	conn   *grpc.ClientConn
}

// New returns the containerd of a node.
func New(cfg config.Config) *Containerd { return &Containerd{paths: cfg.Paths()} }

// Name implements component.Component.
func (c *Containerd) Name() string { return "containerd" }

// Prepare renders the configuration file.
func (c *Containerd) Prepare(context.Context) error {
	if err := durable.MkdirAll(c.paths.Containerd(), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(c.paths.ContainerdConfig(), render(c.paths, canLowerOOMScore()), 0o600)
}

// Run starts the plugins. It is ready when CRI answers on its socket and the sandbox image is in the store.
func (c *Containerd) Run(ctx context.Context, ready func()) error {
	registerClient(c)
	conf := &srvconfig.Config{Version: version.ConfigVersion}
	if err := srvconfig.LoadConfig(ctx, c.paths.ContainerdConfig(), conf); err != nil {
		return fmt.Errorf("load %s: %w", c.paths.ContainerdConfig(), err)
	}
	if err := server.CreateTopLevelDirectories(conf); err != nil {
		return err
	}
	// The server must outlive ctx until Stop, or else its last requests are cut off.
	srv, err := server.New(context.WithoutCancel(ctx), conf)
	if err != nil {
		return err
	}
	defer srv.Stop()
	if err := srv.Start(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	c.conn, err = grpc.NewClient("unix://"+c.paths.ContainerdSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer c.conn.Close()
	if err := component.Poll(ctx, "CRI", 20*time.Millisecond, c.answers); err != nil {
		return err
	}
	started := make(chan struct{})
	go func() {
		srv.Wait()
		close(started)
	}()
	select {
	case <-started:
	case <-ctx.Done():
		return nil
	}
	if err := c.ensurePauseImage(ctx); err != nil {
		return fmt.Errorf("make the sandbox image: %w", err)
	}
	ready()
	<-ctx.Done()
	return nil
}

func (c *Containerd) answers(ctx context.Context) error {
	_, err := cri.NewRuntimeServiceClient(c.conn).Version(ctx, &cri.VersionRequest{})
	return err
}

// Check asks CRI whether it can run containers; a missing network configuration is for the network's own component.
func (c *Containerd) Check(ctx context.Context) error {
	status, err := cri.NewRuntimeServiceClient(c.conn).Status(ctx, &cri.StatusRequest{})
	if err != nil {
		return err
	}
	for _, cond := range status.GetStatus().GetConditions() {
		if cond.GetType() == cri.RuntimeReady && !cond.GetStatus() {
			return fmt.Errorf("%s: %s", cond.GetReason(), cond.GetMessage())
		}
	}
	return nil
}

// clientPlugin sits at the end of containerd's plugin graph and hands out a client of its services in memory.
const clientPlugin plugin.Type = "io.edgebox.client.v1"

func registerClient(c *Containerd) {
	registry.Register(&plugin.Registration{
		Type: clientPlugin,
		ID:   "client",
		Requires: []plugin.Type{
			plugins.EventPlugin, plugins.LeasePlugin, plugins.SandboxStorePlugin, plugins.SandboxControllerPlugin,
			plugins.ServicePlugin, plugins.TransferPlugin, plugins.MetadataPlugin,
		},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			cl, err := client.New("", client.WithDefaultNamespace(namespace),
				client.WithDefaultPlatform(platforms.Default()), client.WithInMemoryServices(ic))
			if err != nil {
				return nil, err
			}
			c.client.Store(cl)
			return cl, nil
		},
	})
}

// Command deviceplugin offers the kubelet two gadgets, gadget-0 and gadget-1, as edgebox.test/gadget. A container that
// gets one finds its name in GADGET and /dev/gadget, which is the null device.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	resource = "edgebox.test/gadget"
	socket   = "gadget.sock" // in api.DevicePluginPath
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := serve(ctx); err != nil {
		log.Print(err)
		stop()
		os.Exit(1)
	}
}

func serve(ctx context.Context) error {
	path := api.DevicePluginPath + socket
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	api.RegisterDevicePluginServer(s, &plugin{done: ctx.Done()})
	context.AfterFunc(ctx, s.Stop)
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	if err := register(ctx); err != nil {
		return fmt.Errorf("register with the kubelet: %w", err)
	}
	log.Print("registered")
	return <-failed
}

func register(ctx context.Context) error {
	conn, err := grpc.NewClient("unix://"+api.KubeletSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = api.NewRegistrationClient(conn).Register(ctx, &api.RegisterRequest{
		Version: api.Version, Endpoint: socket, ResourceName: resource,
	}, grpc.WaitForReady(true))
	return err
}

type plugin struct {
	api.UnimplementedDevicePluginServer
	done <-chan struct{}
}

func (p *plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

func (p *plugin) ListAndWatch(_ *api.Empty, stream grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	err := stream.Send(&api.ListAndWatchResponse{Devices: []*api.Device{
		{ID: "gadget-0", Health: api.Healthy}, {ID: "gadget-1", Health: api.Healthy},
	}})
	if err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-stream.Context().Done():
	}
	return nil
}

func (p *plugin) Allocate(_ context.Context, req *api.AllocateRequest) (*api.AllocateResponse, error) {
	resp := &api.AllocateResponse{}
	for _, c := range req.ContainerRequests {
		resp.ContainerResponses = append(resp.ContainerResponses, &api.ContainerAllocateResponse{
			Envs:    map[string]string{"GADGET": strings.Join(c.DevicesIds, ",")},
			Devices: []*api.DeviceSpec{{HostPath: "/dev/null", ContainerPath: "/dev/gadget", Permissions: "rw"}},
		})
	}
	return resp, nil
}

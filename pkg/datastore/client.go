package datastore

import (
	"context"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy/adapter"
)

// Client implements Store.
func (d *Datastore) Client(endpoint string) *clientv3.Client {
	bridge, ok := d.bridges.Load(endpoint)
	if !ok {
		return nil
	}
	return newClient(bridge.(*server.KVServerBridge))
}

func newClient(b *server.KVServerBridge) *clientv3.Client {
	c := clientv3.NewCtxClient(context.Background())
	c.KV = clientv3.NewKVFromKVClient(adapter.KvServerToKvClient(b), c)
	c.Lease = clientv3.NewLeaseFromLeaseClient(adapter.LeaseServerToLeaseClient(b), c, time.Second)
	c.Watcher = clientv3.NewWatchFromWatchClient(adapter.WatchServerToWatchClient(b), c)
	c.Maintenance = clientv3.NewMaintenanceFromMaintenanceClient(adapter.MaintenanceServerToMaintenanceClient(b), c)
	return c
}

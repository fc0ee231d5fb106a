package datastore

import (
	"context"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestClient has the client that calls the datastore see what one with a connection writes, and the reverse.
func TestClient(t *testing.T) {
	d, _ := start(t, newPaths(t))
	inside, outside := d.Client(d.Endpoint()), dial(t, d.Endpoint())
	if d.Client("unix:///elsewhere") != nil || d.Client(d.VolatileEndpoint()) == nil {
		t.Error("not a client for each of the datastore's own endpoints")
	}
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(t.Context()))
	defer cancel()
	events := inside.Watch(ctx, "/registry/pods/", clientv3.WithPrefix(), clientv3.WithPrevKV())
	create(t, inside, "/registry/pods/a", "inside")
	create(t, outside, "/registry/pods/b", "outside")
	if got := get(t, outside, "/registry/pods/a") + get(t, inside, "/registry/pods/b"); got != "insideoutside" {
		t.Errorf("read %q", got)
	}
	var seen []string
	for len(seen) < 2 {
		res := <-events
		if err := res.Err(); err != nil {
			t.Fatal(err)
		}
		for _, e := range res.Events {
			seen = append(seen, string(e.Kv.Key))
		}
	}
	if seen[0] != "/registry/pods/a" || seen[1] != "/registry/pods/b" {
		t.Errorf("the watch saw %q", seen)
	}
	res, err := inside.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision("/registry/pods/a"), "=", 0)).
		Then(clientv3.OpPut("/registry/pods/a", "again")).Commit()
	if err != nil || res.Succeeded {
		t.Errorf("created twice: %v, %v", res, err)
	}
	if err := inside.Close(); err != context.Canceled {
		t.Error(err)
	}
	if _, ok := <-events; ok {
		t.Error("the watch goes on after Close")
	}
}

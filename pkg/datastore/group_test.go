package datastore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/server"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/edgebox/edgebox/pkg/config"
)

const writers = 16

// update writes as the API server does. It reports whether rev still was the revision of key.
func update(ctx context.Context, c *clientv3.Client, key, value string, rev int64) (bool, *clientv3.TxnResponse, error) {
	res, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", rev)).
		Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key)).Commit()
	return err == nil && res.Succeeded, res, err
}

// TestConflicts has writers who want the same keys: each revision of a key has one writer, who was told so, and a watch
// sees every write once, in the order of the revisions.
func TestConflicts(t *testing.T) {
	d, _ := start(t, newPaths(t))
	c := dial(t, d.Endpoint())
	const keys, rounds = 3, 40
	key := func(i int) string { return fmt.Sprintf("/registry/contended/%d", i%keys) }
	watch := c.Watch(clientv3.WithRequireLeader(t.Context()), "/registry/contended/", clientv3.WithPrefix())

	var created atomic.Int32
	var mu sync.Mutex
	won := map[int64]string{} // by revision: what its writer wrote
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range keys {
				res, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key(i)), "=", 0)).Then(clientv3.OpPut(key(i), "new")).Commit()
				if err != nil {
					t.Error(err)
					return
				}
				if res.Succeeded {
					created.Add(1)
				}
			}
			for i := range rounds {
				res, err := c.Get(t.Context(), key(i))
				if err != nil || len(res.Kvs) != 1 {
					t.Error(res, err)
					return
				}
				value := fmt.Sprint(w, "-", i)
				ok, answer, err := update(t.Context(), c, key(i), value, res.Kvs[0].ModRevision)
				if err != nil {
					t.Error(err)
					return
				}
				if !ok {
					if kvs := answer.Responses[0].GetResponseRange().Kvs; len(kvs) != 1 || kvs[0].ModRevision <= res.Kvs[0].ModRevision {
						t.Errorf("a conflict with %v over %v", kvs, res.Kvs[0])
					}
					continue
				}
				mu.Lock()
				if other, twice := won[answer.Header.Revision]; twice {
					t.Errorf("revision %d is of both %s and %s", answer.Header.Revision, other, value)
				}
				won[answer.Header.Revision] = value
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if created.Load() != keys {
		t.Errorf("%d creates of %d keys succeeded", created.Load(), keys)
	}
	if len(won) < rounds {
		t.Fatalf("only %d updates succeeded", len(won))
	}
	last := slices.Max(slices.Collect(maps.Keys(won)))
	seen := map[int64]string{}
	for at := int64(0); at < last; {
		for _, e := range (<-watch).Events {
			if e.Kv.ModRevision <= at {
				t.Fatalf("revision %d after %d", e.Kv.ModRevision, at)
			}
			if at = e.Kv.ModRevision; !e.IsCreate() {
				seen[at] = string(e.Kv.Value)
			}
		}
	}
	if !maps.Equal(seen, won) {
		t.Errorf("the watch saw %d updates, the writers made %d", len(seen), len(won))
	}
}

// TestCurrentRevision: a watch is told of the newest revision, also when the writes that made it ended together. Who
// waits for it would else wait for the next write.
func TestCurrentRevision(t *testing.T) {
	d, _ := start(t, newPaths(t))
	c := dial(t, d.Endpoint())
	ctx := clientv3.WithRequireLeader(t.Context())
	watch := c.Watch(ctx, "/registry/elsewhere/", clientv3.WithPrefix(), clientv3.WithProgressNotify(), clientv3.WithCreatedNotify())
	if res := <-watch; res.Err() != nil {
		t.Fatal(res.Err())
	}
	for round := range 20 {
		var wg sync.WaitGroup
		var newest atomic.Int64
		for w := range writers {
			wg.Go(func() {
				rev := create(t, c, fmt.Sprintf("/registry/a/%d-%d", round, w), "a")
				for old := newest.Load(); rev > old && !newest.CompareAndSwap(old, rev); old = newest.Load() {
				}
			})
		}
		wg.Wait()
		for at := int64(0); at < newest.Load(); {
			if err := c.RequestProgress(ctx); err != nil {
				t.Fatal(err)
			}
			select {
			case res := <-watch:
				at = res.Header.Revision
			case <-time.After(10 * time.Millisecond): // the API server asks again, too: the events may not have come yet
			}
		}
	}
}

// TestFullDiskWrites: a write that fails is told as failed, whatever it was, and leaves nothing.
func TestFullDiskWrites(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts a tmpfs: needs root")
	}
	paths := newPaths(t)
	if err := os.Mkdir(paths.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", paths.Data, "tmpfs", 0, "size=4m"); err != nil {
		t.Skip("mount a tmpfs: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(paths.Data, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	d, stop := start(t, paths)
	defer stop()
	c := dial(t, d.Endpoint())
	rev := create(t, c, "/registry/a", "old")
	filler := filepath.Join(paths.Data, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()

	big := strings.Repeat("x", 64<<10)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			key := fmt.Sprintf("/registry/b/%d", w)
			res, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, big)).Commit()
			if err == nil || !strings.Contains(err.Error(), "full") {
				t.Errorf("create: %v, %v", res, err)
			}
			ok, _, err := update(t.Context(), c, "/registry/a", big, rev)
			if err == nil || !strings.Contains(err.Error(), "full") {
				t.Errorf("update: %t, %v", ok, err)
			}
		})
	}
	wg.Wait()
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if get(t, c, "/registry/b/0") != "" || get(t, c, "/registry/a") != "old" {
		t.Error("what failed was written")
	}
	if next := create(t, c, "/registry/b/0", "b"); next != rev+1 {
		t.Errorf("the revision after %d is %d", rev, next)
	}
}

// TestCompaction runs it against writers, who share one lock with it.
func TestCompaction(t *testing.T) {
	file := sqliteFile{filepath.Join(t.TempDir(), "a.db"), "FULL"}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	b, err := openSQLite(ctx, &wg, file, drivers.Config{CompactInterval: time.Millisecond, CompactTimeout: compactTimeout,
		CompactMinRetain: 10, CompactBatchSize: 100, PollInterval: pollAlone, PollBatchSize: batchSize})
	if err == nil {
		err = b.Start(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer wg.Wait()
	defer cancel()
	first, err := b.Create(ctx, "/first", []byte("first"), 0)
	if err != nil {
		t.Fatal(err)
	}
	go func() { // which starts compaction
		for range b.Watch(ctx, 0).Eventc {
		}
	}()
	var clients sync.WaitGroup
	stop := make(chan struct{})
	for w := range writers {
		clients.Go(func() {
			key := fmt.Sprint("/key/", w)
			rev, err := b.Create(ctx, key, []byte("0"), 0)
			for i := 1; err == nil; i++ {
				select {
				case <-stop:
					if _, kv, err := b.Get(ctx, key, 0, false); err != nil || string(kv.Value) != fmt.Sprint(i-1) {
						t.Errorf("%s: %v, %v, want %d", key, kv, err, i-1)
					}
					return
				default:
				}
				var ok bool
				if rev, _, ok, err = b.Update(ctx, key, []byte(fmt.Sprint(i)), rev, 0); err == nil && !ok {
					err = errors.New("a conflict although there is one writer")
				}
			}
			t.Error(err)
		})
	}
	for err = nil; !errors.Is(err, server.ErrCompacted); {
		if _, _, err = b.List(ctx, "/key/", "/key0", 0, first, false); err != nil && !errors.Is(err, server.ErrCompacted) {
			t.Fatal(err)
		}
	}
	close(stop)
	clients.Wait()
	if _, kv, err := b.Get(ctx, "/first", 0, false); err != nil || kv == nil {
		t.Errorf("compaction has taken a current object: %v, %v", kv, err)
	}
}

// killedDir tells the test binary, run anew, to be the process that TestKill kills.
const killedDir = "EDGEBOX_TEST_KILLED_DIR"

// TestKill kills a process in the midst of writes: each one that was acknowledged is there.
func TestKill(t *testing.T) {
	if dir := os.Getenv(killedDir); dir != "" {
		writeUntilKilled(t, config.Paths{Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run")})
	}
	dir, err := os.MkdirTemp("", "ds")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	paths := config.Paths{Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run")}
	want := map[string]string{} // what was acknowledged last, by key
	for round := range 4 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), killedDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		acknowledged := 0
		for lines := bufio.NewScanner(out); lines.Scan(); {
			key, value, ok := strings.Cut(lines.Text(), "=")
			if !ok {
				t.Error(lines.Text())
				continue
			}
			want[key] = value
			if acknowledged++; acknowledged == 300*(round+1) { // and goes on with what is in the pipe
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() >= 0 {
			t.Fatalf("it was not killed: %v", err)
		}
		d, stop := start(t, paths)
		c := dial(t, d.Endpoint())
		for key, value := range want {
			// A write may have reached the disk whose answer did not get out. Values count up.
			if got := get(t, c, key); len(got) < len(value) || len(got) == len(value) && got < value {
				t.Errorf("round %d: %s is %q, acknowledged was %q", round, key, got, value)
			}
		}
		stop()
	}
}

func writeUntilKilled(t *testing.T, paths config.Paths) {
	d, _ := start(t, paths)
	c := dial(t, d.Endpoint())
	for w := range writers {
		go func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("/registry/%d/%d", w, i%10)
				res, err := c.Get(t.Context(), key)
				if err != nil {
					panic(err)
				}
				n, rev := 0, int64(0)
				if len(res.Kvs) > 0 {
					rev = res.Kvs[0].ModRevision
					fmt.Sscan(string(res.Kvs[0].Value), &n)
				}
				value := fmt.Sprint(n + 1)
				if ok, _, err := update(t.Context(), c, key, value, rev); err != nil || !ok {
					panic(fmt.Sprint(key, ok, err))
				}
				fmt.Printf("%s=%s\n", key, value)
			}
		}()
	}
	select {}
}

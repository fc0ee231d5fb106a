package approval

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/edgebox/edgebox/pkg/pki"
)

// TestRun decides on what is there and on what comes, tries again what failed, and leaves nothing behind.
func TestRun(t *testing.T) {
	mine := machine(t, 1)
	first, second := joining(t, "n", mine).object(t), joining(t, "m", mine).object(t)
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(first)
		failures := 3
		client.PrependReactor("create", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
			failures--
			return failures >= 0, nil, errors.New("etcdserver: leader changed")
		})
		a, start := newApprover(nil), time.Now()
		a.now = func() time.Time { return today.Add(time.Since(start)) }
		ctx, cancel := context.WithCancel(t.Context())
		ready, ended := make(chan struct{}), make(chan error, 1)
		a.cfg.Client = func() (kubernetes.Interface, error) { return client, nil }
		go func() { ended <- a.Run(ctx, func() { close(ready) }) }()
		<-ready
		for failures > -1 {
			time.Sleep(retryMin)
		}
		if _, err := client.CertificatesV1().CertificateSigningRequests().Create(ctx, second, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, name := range []string{"join-n", "join-m"} {
			if what, message := outcome(t, client, name); what != approved {
				t.Errorf("%s: %s %s", name, what, message)
			}
		}
		time.Sleep(2 * time.Hour) // for which it looks for the nodes
		client.ClearActions()
		time.Sleep(24 * time.Hour)
		for _, action := range client.Actions() {
			if v := action.GetVerb(); v != "watch" && v != "list" {
				t.Errorf("idle, it does %s %s", v, action.GetResource().Resource)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestBind: the record of a machine that has joined is bound to the Node when that comes, and goes if it does not come; so
// also after a restart.
func TestBind(t *testing.T) {
	mine, other := machine(t, 1), machine(t, 2)
	for name, tc := range map[string]struct {
		objects []runtime.Object
		after   time.Duration // that the Node comes; 0 for never
		want    string        // two hours later
	}{
		"comes at once": {objects: []runtime.Object{joining(t, "n", mine).object(t)}, after: time.Second, want: mine.ID() + " Node/uid-n"},
		"comes late":    {objects: []runtime.Object{joining(t, "n", mine).object(t)}, after: 50 * time.Minute, want: mine.ID() + " Node/uid-n"},
		"never comes":   {objects: []runtime.Object{joining(t, "n", mine).object(t)}, want: "none"},
		"asks for its serving certificate first": {objects: []runtime.Object{serving(t, "n").object(t), testRecord("n", mine, time.Minute)}, after: time.Minute,
			want: mine.ID() + " Node/uid-n"},
		"another takes the name": {objects: []runtime.Object{testRecord("n", other, 2*time.Hour, ownedBy("uid-former")), joining(t, "n", mine).object(t)}, after: time.Minute,
			want: mine.ID() + " Node/uid-n"},
		"restart, came meanwhile": {objects: []runtime.Object{testRecord("n", mine, 10*time.Hour), testNode("n")}, want: mine.ID() + " Node/uid-n"},
		"restart, comes":          {objects: []runtime.Object{testRecord("n", mine, time.Minute)}, after: time.Minute, want: mine.ID() + " Node/uid-n"},
		"restart, never comes":    {objects: []runtime.Object{testRecord("n", mine, time.Minute)}, want: "none"},
		"restart, is late":        {objects: []runtime.Object{testRecord("n", mine, 10*time.Hour)}, want: "none"},
		"of a server":             {objects: []runtime.Object{testRecord("n", mine, 10*time.Hour, ofServer)}, want: mine.ID() + " server"},
		"bound":                   {objects: []runtime.Object{testRecord("n", mine, 10*time.Hour, ownedBy("uid-former"))}, want: mine.ID() + " Node/uid-former"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := fake.NewClientset(tc.objects...)
				a := newApprover(client)
				start := time.Now()
				a.now = func() time.Time { return today.Add(time.Since(start)) }
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- a.Run(ctx, func() {}) }()
				if tc.after > 0 {
					time.Sleep(tc.after)
					if _, err := client.CoreV1().Nodes().Create(ctx, testNode("n"), metav1.CreateOptions{}); err != nil {
						t.Fatal(err)
					}
					time.Sleep(min(2*tc.after, bindMax) + bindMin) // no longer than it has waited until then
					if got := recordOf(t, client, "n"); got != tc.want {
						t.Errorf("soon the record is %s, want %s", got, tc.want)
					}
				}
				time.Sleep(2 * time.Hour)
				if got := recordOf(t, client, "n"); got != tc.want {
					t.Errorf("the record is %s, want %s", got, tc.want)
				}
				looks := 0
				for _, action := range client.Actions() {
					if action.Matches("get", "nodes") {
						looks++
					}
				}
				if most := map[bool]int{true: 0, false: 30}[name == "of a server" || name == "bound"]; looks > most {
					t.Errorf("it has looked %d times, want at most %d", looks, most)
				}
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestRunEndsBeforeReady while the API does not answer.
func TestRunEndsBeforeReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		client.PrependReactor("list", "certificatesigningrequests", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, errors.New("connection refused")
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- newApprover(client).Run(ctx, func() { t.Error("ready") }) }()
		time.Sleep(time.Minute)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestSelf(t *testing.T) {
	mine, other := machine(t, 1), machine(t, 2)
	for name, tc := range map[string]struct {
		record *corev1.Secret
		node   bool
		want   string // before the Node is there, if it was not
	}{
		"first boot":            {want: mine.ID() + " server"},
		"restart":               {record: testRecord("box", mine, time.Hour, ofServer, ownedBy("uid-box")), node: true},
		"died before the node":  {record: testRecord("box", mine, time.Hour, ofServer), want: mine.ID() + " server"},
		"node without a record": {node: true},
		"was an agent":          {record: testRecord("box", mine, time.Hour, ownedBy("uid-box")), node: true},
		"name of an agent":      {record: testRecord("box", other, time.Hour, ownedBy("uid-box")), node: true},
		"on another board":      {record: testRecord("box", other, time.Hour, ownedBy("uid-box"), ofServer), node: true},
		"node removed":          {record: testRecord("box", mine, time.Hour, ownedBy("uid-former"), ofServer), want: mine.ID() + " server"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var objects []runtime.Object
				if tc.record != nil {
					objects = append(objects, tc.record)
				}
				if tc.node {
					objects = append(objects, testNode("box"))
				}
				client := fake.NewClientset(objects...)
				s := NewSelf("box", false, func() (pki.Machine, error) { return mine, nil }, func() (kubernetes.Interface, error) { return client, nil })
				s.now = func() time.Time { return today }
				if err := s.Prepare(t.Context()); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				ready, ended := make(chan struct{}), make(chan error, 1)
				go func() { ended <- s.Run(ctx, func() { close(ready) }) }()
				if !tc.node {
					time.Sleep(time.Minute)
					select {
					case <-ready:
						t.Error("ready before the kubelet has registered the node")
					default:
					}
					if got := recordOf(t, client, "box"); got != tc.want {
						t.Errorf("the record is %s, want %s", got, tc.want)
					}
					if _, err := client.CoreV1().Nodes().Create(ctx, testNode("box"), metav1.CreateOptions{}); err != nil {
						t.Fatal(err)
					}
				}
				<-ready
				if got, want := recordOf(t, client, "box"), mine.ID()+" Node/uid-box server"; got != want {
					t.Errorf("the record is %s, want %s", got, want)
				}
				for _, action := range client.Actions() {
					if v := action.GetVerb(); name == "restart" && v != "get" {
						t.Errorf("%s %s though all was as it should be", v, action.GetResource().Resource)
					}
				}
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
	client := fake.NewClientset()
	alone := NewSelf("box", true, func() (pki.Machine, error) { return mine, nil }, func() (kubernetes.Interface, error) { return client, nil })
	if err := alone.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := alone.ensure(t.Context(), client); err != nil {
		t.Errorf("a server without a kubelet: %v", err)
	}
	if got := recordOf(t, client, "box"); got != mine.ID()+" server" {
		t.Errorf("a server without a kubelet: the record is %s", got)
	}
	s := NewSelf("box", false, func() (pki.Machine, error) { return pki.Machine{}, errors.New("no disk") }, nil)
	if err := s.Prepare(t.Context()); err == nil {
		t.Error("a machine without identity")
	}
}

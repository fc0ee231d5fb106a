package approval

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	clienttesting "k8s.io/client-go/testing"

	"github.com/edgebox/edgebox/pkg/pki"
)

func (f *form) requester() requester {
	if strings.HasPrefix(f.user, "system:bootstrap:") {
		return joiner
	}
	return node
}

// TestDecidesOnce: another run, or another server, changes nothing, and writes nothing.
func TestDecidesOnce(t *testing.T) {
	mine := machine(t, 1)
	client := fake.NewClientset(testNode("n"), joining(t, "m", mine).object(t), serving(t, "n", "127.0.0.1").object(t), testRecord("n", mine, time.Hour, ownedBy("uid-n")), renewing(t, "n").object(t))
	a := newApprover(client)
	names := []string{"join-m", "serve-n", "renew-n", "gone"}
	for _, name := range names {
		if _, err := a.handle(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	client.ClearActions()
	for _, name := range names {
		if _, err := a.handle(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	for _, action := range client.Actions() {
		if action.GetVerb() != "get" {
			t.Errorf("%s %s", action.GetVerb(), action.GetResource().Resource)
		}
	}
}

// TestRecordIsKeptAsItWas: what others have put on it stays when it is bound to the Node.
func TestRecordIsKeptAsItWas(t *testing.T) {
	mine := machine(t, 1)
	record := testRecord("n", mine, 30*time.Minute, func(s *corev1.Secret) {
		s.Labels, s.Annotations = map[string]string{"rack": "cellar"}, map[string]string{"a": "b"}
	})
	client := fake.NewClientset(testNode("n"), record, renewing(t, "n").object(t))
	if _, err := newApprover(client).handle(t.Context(), "renew-n"); err != nil {
		t.Fatal(err)
	}
	got, err := client.CoreV1().Secrets("kube-system").Get(t.Context(), "n.machine", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Labels["rack"] != "cellar" || got.Annotations["a"] != "b" || string(got.Data["claimed"]) != string(record.Data["claimed"]) {
		t.Errorf("it has become %v %v %s", got.Labels, got.Annotations, got.Data)
	}
	if o := metav1.GetControllerOf(got); o == nil || o.APIVersion != "v1" || o.Kind != "Node" || o.Name != "n" || o.UID != "uid-n" {
		t.Errorf("its owner is %v", o)
	}
}

// TestForeignSecret under the record's name is nobody's claim and is not overwritten.
func TestForeignSecret(t *testing.T) {
	mine := machine(t, 1)
	client := fake.NewClientset(testRecord("n", mine, 0, func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }), joining(t, "n", mine, pki.RejoinGroup).object(t))
	_, err := newApprover(client).handle(t.Context(), "join-n")
	if err == nil || !strings.Contains(err.Error(), "n.machine is of type Opaque") {
		t.Error(err)
	}
	if what, _ := outcome(t, client, "join-n"); what != left {
		t.Error(what)
	}
}

// versioned makes updates of Secrets fail as the API server does when the object has changed, which the fake does not.
func versioned(c *fake.Clientset) {
	var mu sync.Mutex
	version := 100
	c.PrependReactor("update", "secrets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		s := action.(clienttesting.UpdateAction).GetObject().(*corev1.Secret).DeepCopy()
		now, err := c.Tracker().Get(action.GetResource(), s.Namespace, s.Name)
		if err != nil {
			return true, nil, err
		}
		if now.(*corev1.Secret).ResourceVersion != s.ResourceVersion {
			return true, nil, apierrors.NewConflict(action.GetResource().GroupResource(), s.Name, errors.New("it has changed"))
		}
		version++
		s.ResourceVersion = strconv.Itoa(version)
		return true, s, c.Tracker().Update(action.GetResource(), s, s.Namespace)
	})
}

// hooked calls hook before it reads a Node, which is after the record. Reactors cannot do that: the fake is locked meanwhile.
type hooked struct {
	kubernetes.Interface
	hook func()
}

type hookedCore struct {
	typedcore.CoreV1Interface
	hook func()
}

type hookedNodes struct {
	typedcore.NodeInterface
	hook func()
}

func (h hooked) CoreV1() typedcore.CoreV1Interface { return hookedCore{h.Interface.CoreV1(), h.hook} }
func (h hookedCore) Nodes() typedcore.NodeInterface {
	return hookedNodes{h.CoreV1Interface.Nodes(), h.hook}
}

func (h hookedNodes) Get(ctx context.Context, name string, opts metav1.GetOptions) (*corev1.Node, error) {
	h.hook()
	return h.NodeInterface.Get(ctx, name, opts)
}

// TestRace: two machines come for one name at the same time, to two servers, and both servers see the same state of the
// cluster before either writes. One machine gets the name.
func TestRace(t *testing.T) {
	one, two := machine(t, 1), machine(t, 2)
	for name, cluster := range map[string][]runtime.Object{
		"new name":                  nil,
		"name that nobody came for": {testRecord("n", machine(t, 3), time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			forms := []*form{joining(t, "n", one), joining(t, "n", two)}
			for i, f := range forms {
				f.name = strconv.Itoa(i)
				cluster = append(cluster, f.object(t))
			}
			client := fake.NewClientset(cluster...)
			versioned(client)
			// When both have read the record for the first time they go on.
			var both sync.WaitGroup
			both.Add(2)
			var servers sync.WaitGroup
			for _, f := range forms {
				servers.Go(func() {
					var once sync.Once
					a := newApprover(hooked{client, func() { once.Do(func() { both.Done(); both.Wait() }) }})
					tries := 0
					for err := errors.New(""); err != nil; tries++ {
						if _, err = a.handle(t.Context(), f.name); err != nil && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
							t.Error(err)
							return
						}
					}
					if tries > 2 {
						t.Errorf("%d tries", tries)
					}
				})
			}
			servers.Wait()
			won := ""
			for i, f := range forms {
				switch what, message := outcome(t, client, f.name); what {
				case approved:
					won += strconv.Itoa(i)
				case taken:
				default:
					t.Errorf("%s: %s", what, message)
				}
			}
			if len(won) != 1 {
				t.Fatalf("%q won", won)
			}
			if got := recordOf(t, client, "n"); got != map[string]string{"0": one.ID(), "1": two.ID()}[won] {
				t.Errorf("%s won, the record is %s", won, got)
			}
		})
	}
}

// TestOvertaken: a request that another server has decided on is not written a record for.
func TestOvertaken(t *testing.T) {
	one, two := machine(t, 1), machine(t, 2)
	f := joining(t, "n", one, pki.RejoinGroup)
	client := fake.NewClientset(testNode("n"), testRecord("n", two, time.Hour, ownedBy("uid-n")), f.object(t))
	a := newApprover(hooked{client, func() { // the record was read, the request was not read again
		if err := newApprover(client).conclude(t.Context(), f.object(t), request{node: "n"}, approve(nil, "by another server")); err != nil {
			t.Error(err)
		}
	}})
	if _, err := a.handle(t.Context(), f.name); err != nil {
		t.Fatal(err)
	}
	if _, message := outcome(t, client, f.name); message != "by another server" {
		t.Error(message)
	}
	if got := recordOf(t, client, "n"); got != two.ID()+" Node/uid-n" {
		t.Errorf("the record is %s", got)
	}
}

// TestNoApprovalWithoutRecord: what cannot be put on record is not approved, and nothing is decided while the API fails.
func TestNoApprovalWithoutRecord(t *testing.T) {
	mine := machine(t, 1)
	for _, failing := range []string{"get nodes", "get secrets", "create secrets", "list nodes", "list endpointslices", "get certificatesigningrequests", "update certificatesigningrequests"} {
		client := fake.NewClientset(joining(t, "n", mine).object(t), serving(t, "m", "192.0.2.1").object(t))
		verb, resource, _ := strings.Cut(failing, " ")
		down := true
		client.PrependReactor(verb, resource, func(clienttesting.Action) (bool, runtime.Object, error) {
			return down, nil, errors.New("etcdserver: request timed out")
		})
		a := newApprover(client)
		errs := 0
		for _, name := range []string{"join-n", "serve-m"} {
			if _, err := a.handle(t.Context(), name); err != nil {
				errs++
				down = false
				if what, _ := outcome(t, client, name); what != left {
					t.Errorf("%s fails: %s of %s", failing, what, name)
				}
				down = true
			}
		}
		if errs == 0 {
			t.Errorf("%s fails: no error", failing)
		}
		down = false
		for _, name := range []string{"join-n", "serve-m"} {
			if _, err := a.handle(t.Context(), name); err != nil {
				t.Errorf("after %s failed: %v", failing, err)
			}
			if what, _ := outcome(t, client, name); what != approved {
				t.Errorf("after %s failed: %s of %s", failing, what, name)
			}
		}
	}
}

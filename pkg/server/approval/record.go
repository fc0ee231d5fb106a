package approval

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// The record of the machine that a node is.
const (
	recordSuffix = ".machine"
	recordType   = corev1.SecretType("edgebox.internal/machine")
	idKey        = "id"      // of the machine
	claimedKey   = "claimed" // when it got the name, RFC 3339
	serverLabel  = "edgebox.internal/server"

	fieldManager = "edgebox"
)

// claimTime is how long a name is kept for a machine that got a certificate and has not registered its Node yet.
const claimTime = time.Hour

// Waits between looks at whether the Node has come. In between they are as long as it has been waited for.
const (
	bindMin = 2 * time.Second
	bindMax = 5 * time.Minute
)

// controlPlaneLabel is on the nodes of servers. A kubelet cannot set or remove it.
const controlPlaneLabel = "node-role.kubernetes.io/control-plane"

// known is what the cluster has under a node's name.
type known struct {
	name   string
	node   *corev1.Node   // nil if there is none
	secret *corev1.Secret // the record; nil if there is none
}

func lookUp(ctx context.Context, client kubernetes.Interface, name string) (known, error) {
	k := known{name: name}
	secret, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, name+recordSuffix, metav1.GetOptions{})
	switch {
	case err == nil && secret.Type != recordType:
		return k, fmt.Errorf("the Secret %s is of type %s, not %s: remove it", secret.Name, secret.Type, recordType)
	case err == nil:
		k.secret = secret
	case !apierrors.IsNotFound(err):
		return k, err
	}
	node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		k.node = node
	} else if !apierrors.IsNotFound(err) {
		return k, err
	}
	return k, nil
}

// machine returns the machine that has the name now. A record ends with the Node that it was made for, or by itself when
// no Node came of it.
func (k known) machine(now time.Time) (id string, ok bool) {
	if k.secret == nil {
		return "", false
	}
	id = string(k.secret.Data[idKey])
	if owner := metav1.GetControllerOf(k.secret); owner != nil {
		return id, k.node != nil && k.node.UID == owner.UID
	}
	if k.node != nil || k.secret.Labels[serverLabel] != "" {
		return id, true
	}
	return id, k.age(now) < claimTime
}

// age is how long the machine has had the name, or has had it ahead by a clock that was set back.
func (k known) age(now time.Time) time.Duration {
	claimed, err := time.Parse(time.RFC3339, string(k.secret.Data[claimedKey]))
	if err != nil {
		return math.MaxInt64
	}
	return now.Sub(claimed).Abs()
}

// held tells whether a machine has the name now.
func (k known) held(now time.Time) bool {
	_, ok := k.machine(now)
	return ok
}

// server tells whether the name is that of a server.
func (k known) server(now time.Time) bool {
	if k.node != nil {
		if _, ok := k.node.Labels[controlPlaneLabel]; ok {
			return true
		}
	}
	return k.held(now) && k.secret.Labels[serverLabel] != ""
}

// record returns the write after which the machine has the name, or nil if it has it already.
func (k known) record(id string, server bool, now time.Time) *record {
	held, ok := k.machine(now)
	bound := k.node == nil || k.secret != nil && metav1.GetControllerOf(k.secret) != nil
	if ok && held == id && bound && (!server || k.secret.Labels[serverLabel] != "") {
		return nil
	}
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: k.name + recordSuffix},
		Type:       recordType,
		Data:       map[string][]byte{idKey: []byte(id), claimedKey: []byte(now.UTC().Format(time.RFC3339))},
	}
	r := &record{secret: s}
	if k.secret != nil {
		s.ResourceVersion, s.UID = k.secret.ResourceVersion, k.secret.UID
		s.Labels, s.Annotations = maps.Clone(k.secret.Labels), k.secret.Annotations
		r.replaces = true
		if ok && held == id {
			s.Data[claimedKey] = k.secret.Data[claimedKey]
		} else {
			delete(s.Labels, serverLabel)
		}
	}
	if server {
		metav1.SetMetaDataLabel(&s.ObjectMeta, serverLabel, "true")
	}
	if k.node != nil {
		yes := true
		s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: k.node.Name, UID: k.node.UID, Controller: &yes}}
	}
	return r
}

// A record is a write that is due; nil if none is. It fails with a conflict if the cluster has changed since it was looked
// up, so that of two machines that come for one name at a time one gets it.
type record struct {
	secret   *corev1.Secret
	replaces bool
}

func (r *record) write(ctx context.Context, client kubernetes.Interface) (err error) {
	if r == nil {
		return nil
	}
	secrets := client.CoreV1().Secrets(metav1.NamespaceSystem)
	if r.replaces {
		_, err = secrets.Update(ctx, r.secret, metav1.UpdateOptions{FieldManager: fieldManager})
	} else {
		_, err = secrets.Create(ctx, r.secret, metav1.CreateOptions{FieldManager: fieldManager})
	}
	if err != nil {
		return fmt.Errorf("write Secret %s: %w", r.secret.Name, err)
	}
	return nil
}

// unbound tells whether a record waits for its Node. The server itself looks after its own.
func unbound(s *corev1.Secret) bool {
	return metav1.GetControllerOf(s) == nil && s.Labels[serverLabel] == ""
}

// listUnbound names the nodes whose records wait for them.
func listUnbound(ctx context.Context, client kubernetes.Interface) (nodes []string, err error) {
	secrets, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(recordType)})
	if err != nil {
		return nil, fmt.Errorf("list the records of machines: %w", err)
	}
	for _, s := range secrets.Items {
		if name, ok := strings.CutSuffix(s.Name, recordSuffix); ok && s.Type == recordType && unbound(&s) {
			nodes = append(nodes, name)
		}
	}
	return nodes, nil
}

// bind makes the record end with the Node, if the kubelet has registered it; otherwise it returns when to look again. A
// record of which no Node has come is removed.
func (a *Approver) bind(ctx context.Context, node string) (again time.Duration, err error) {
	k, err := lookUp(ctx, a.client, node)
	if err != nil || k.secret == nil || !unbound(k.secret) {
		return 0, err
	}
	now := a.now()
	id, held := k.machine(now)
	switch {
	case k.node != nil:
		return 0, k.record(id, false, now).write(ctx, a.client)
	case held:
		return min(max(k.age(now), bindMin), bindMax), nil
	}
	err = a.client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, k.secret.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &k.secret.UID, ResourceVersion: &k.secret.ResourceVersion}})
	if err != nil {
		return 0, ignoreNotFound(err)
	}
	slog.Info("a machine that was to be a node has not come; its name is free again", "node", node, "machine", short(id))
	return 0, nil
}

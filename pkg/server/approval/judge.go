package approval

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edgebox/edgebox/pkg/pki"
)

// Reasons of conditions, beside those of pkg/pki.
const (
	reasonApproved = "EdgeboxApproved"
	reasonForm     = "RequestRefused"
	reasonReserved = "NodeNameReserved"
	reasonMachine  = "MachineUnknown"
	reasonRemoved  = "NodeRemoved"
)

// verdict is a decision, and what must be on record before it is told.
type verdict struct {
	approved        bool
	reason, message string
	record          *record
}

func approve(r *record, format string, args ...any) verdict {
	return verdict{approved: true, reason: reasonApproved, message: fmt.Sprintf(format, args...), record: r}
}

func deny(reason, format string, args ...any) verdict {
	return verdict{reason: reason, message: fmt.Sprintf(format, args...)}
}

// judge decides on a request of the right form.
func (a *Approver) judge(ctx context.Context, r request, k known) (verdict, error) {
	switch {
	case a.reserved(r.node):
		return deny(reasonReserved, "%q is a name of the cluster's servers: choose another --node-name", r.node), nil
	case r.requester == joiner:
		return a.judgeJoin(r, k), nil
	case r.serving:
		if refused, err := a.refuseAddresses(ctx, r); refused != "" || err != nil {
			return deny(pki.DeniedAddress, "%s", refused), err
		}
	case k.node == nil && !k.held(a.now()):
		// Otherwise a node that was removed could stay one for ever.
		return deny(reasonRemoved, "node %s was removed from the cluster: let the kubelet register it again, or join again with a token", r.node), nil
	}
	return a.judgeNode(r, k), nil
}

// judgeJoin decides whether a machine may be the node.
func (a *Approver) judgeJoin(r request, k known) verdict {
	now := a.now()
	held, ok := k.machine(now)
	switch {
	case r.machineErr != nil:
		return deny(reasonMachine, "it is not known which machine asks for node %s: %v", r.node, r.machineErr)
	case ok && held == r.machine:
		return approve(k.record(r.machine, false, now), "machine %s is node %s", short(r.machine), r.node)
	case k.server(now) && k.node == nil:
		return deny(pki.DeniedName, "%s is the name of a server: choose another --node-name, or free the name with "+
			"`edgebox kubectl delete secret -n kube-system %s%s` if that server is gone", r.node, r.node, recordSuffix)
	case k.server(now):
		return deny(pki.DeniedName, "node %s is a server: choose another --node-name", r.node)
	case !ok && k.node == nil && held != "":
		return approve(k.record(r.machine, false, now), "machine %s joins as node %s, whose former machine was %s", short(r.machine), r.node, short(held))
	case !ok && k.node == nil:
		return approve(k.record(r.machine, false, now), "machine %s joins as node %s", short(r.machine), r.node)
	case r.rejoins:
		return approve(k.record(r.machine, false, now), "machine %s joins as node %s, which was %s; the token allows it", short(r.machine), r.node, holder(held, ok))
	case k.node == nil:
		return deny(pki.DeniedName, "the name %s was given to %s, which has not registered its node yet: choose another --node-name, "+
			"join with a token made by `edgebox token create --usages=signing,authentication,rejoin`, "+
			"or free the name with `edgebox kubectl delete secret -n kube-system %s%s`", r.node, holder(held, ok), r.node, recordSuffix)
	}
	return deny(pki.DeniedName, "node %s belongs to %s: choose another --node-name, remove the node with `edgebox kubectl delete node %s`, "+
		"or join with a token made by `edgebox token create --usages=signing,authentication,rejoin`", r.node, holder(held, ok), r.node)
}

// judgeNode grants a node what it asks for itself, and brings the record up to date: it is bound to the Node, which did not
// exist when the machine joined.
func (a *Approver) judgeNode(r request, k known) verdict {
	now := a.now()
	what := "client"
	if r.serving {
		what = "serving"
	}
	message := fmt.Sprintf("node %s gets its %s certificate", r.node, what)
	held, ok := k.machine(now)
	switch {
	case ok && r.machine != "" && r.machine != held:
		// The key is the node's, and whoever has it has all that there is to get; but somebody should know.
		message += fmt.Sprintf(", though machine %s asks and the node belongs to %s", short(r.machine), holder(held, ok))
	case !ok:
		held = r.machine
	}
	if k.node == nil || held == "" {
		return approve(nil, "%s", message)
	}
	return approve(k.record(held, false, now), "%s", message)
}

// reserved tells whether a node may not have that name because servers, or what is reached by way of the cluster's DNS,
// are verified by it.
func (a *Approver) reserved(name string) bool {
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	domains := []string{"localhost", "kubernetes", "kubernetes.default", "svc", strings.ToLower(strings.TrimSuffix(a.cfg.ClusterDomain, "."))}
	for _, d := range domains {
		if d != "" && (name == d || strings.HasSuffix(name, "."+d)) {
			return true
		}
	}
	for _, r := range a.cfg.Reserved {
		if strings.EqualFold(strings.TrimSuffix(r, "."), name) {
			return true
		}
	}
	return false
}

// refuseAddresses says what is wrong with the first address of a serving certificate that the node may not have.
func (a *Approver) refuseAddresses(ctx context.Context, r request) (refused string, err error) {
	if len(r.addresses) == 0 {
		return "", nil
	}
	const instead = "ask for a certificate without addresses"
	for _, addr := range r.addresses {
		if !addr.IsGlobalUnicast() {
			return fmt.Sprintf("%s is not an address by which others reach node %s: %s", addr, r.node, instead), nil
		}
		for _, cidr := range a.cfg.ClusterCIDRs {
			if cidr.Contains(addr) {
				return fmt.Sprintf("%s is an address of pods or services, in %s: %s", addr, cidr, instead), nil
			}
		}
	}
	for _, s := range a.cfg.Reserved {
		if r.asksFor(s) {
			return fmt.Sprintf("%s is an address of the API: %s", s, instead), nil
		}
	}
	cached := metav1.ListOptions{ResourceVersion: "0"}
	nodes, err := a.client.CoreV1().Nodes().List(ctx, cached)
	if err != nil {
		return "", fmt.Errorf("list the addresses of nodes: %w", err)
	}
	for _, n := range nodes.Items {
		for _, has := range n.Status.Addresses {
			if n.Name != r.node && r.asksFor(has.Address) {
				return fmt.Sprintf("%s is an address of node %s: %s, or remove that node with `edgebox kubectl delete node %s` if it is gone", has.Address, n.Name, instead, n.Name), nil
			}
		}
	}
	cached.LabelSelector = discovery.LabelServiceName + "=kubernetes"
	endpoints, err := a.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, cached)
	if err != nil {
		return "", fmt.Errorf("list the addresses of the API: %w", err)
	}
	for _, s := range endpoints.Items {
		for _, e := range s.Endpoints {
			for _, has := range e.Addresses {
				if r.asksFor(has) {
					return fmt.Sprintf("%s is an address of the API: %s", has, instead), nil
				}
			}
		}
	}
	return "", nil
}

// asksFor tells whether the request has that address; s may also be a name.
func (r request) asksFor(s string) bool {
	addr, err := netip.ParseAddr(s)
	return err == nil && slices.Contains(r.addresses, addr.Unmap())
}

// holder says to an operator who has a name.
func holder(id string, onRecord bool) string {
	if !onRecord {
		return "a machine that is not on record"
	}
	return "another machine (" + short(id) + ")"
}

// short is enough of a machine's ID to tell it from others.
func short(id string) string { return id[:min(12, len(id))] }

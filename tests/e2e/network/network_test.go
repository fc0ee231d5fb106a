package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/edgebox/edgebox/tests/framework"
)

func TestPodsReachPodsOnEveryNode(t *testing.T) {
	_, n := namespace(t)
	address := peers(n, nodes)
	for _, from := range nodes {
		answers := make(map[string]string)
		for _, to := range nodes {
			// Nothing on the way hides who asks.
			answers["http://"+address[to]+":8080/"] = podOn(to) + " " + address[from]
			answers["udp://"+address[to]+":8080?size=100"] = podOn(to) + " " + address[from]
		}
		want(t, "the pod on "+from, fromPod(n, podOn(from)), answers)
	}
}

func TestNodesReachPodsOnEveryNode(t *testing.T) {
	c, n := namespace(t)
	address := peers(n, nodes)
	for _, from := range nodes {
		answers := make(map[string]string)
		for _, to := range nodes {
			answers["http://"+address[to]+":8080/"] = podOn(to)
		}
		want(t, "node "+from, fromHost(t, c.nodes[from]), answers)
	}
	// The host outside has no route to pods, nor would it have a reason to.
	out, err := fromHost(t, c.outsider)("http://" + address[nodes[0]] + ":8080/")
	if err != nil || !strings.HasPrefix(out, "error: ") {
		t.Errorf("from outside: %s, %v", out, err)
	}
}

// Pods, nodes and others reach what listens on the address of a node: pods with its network, and host ports of others.
func TestPodsReachNodes(t *testing.T) {
	c, n := namespace(t)
	peers(n, nodes)
	answers := make(map[string]string)
	for _, node := range nodes {
		n.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: host-` + node + `, labels: {app: host}}
spec:
  nodeSelector: {kubernetes.io/hostname: "` + node + `"}
  terminationGracePeriodSeconds: 0
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  containers: [{name: peer, image: "peer:e2e", args: [serve, "18080"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: port-` + node + `, labels: {app: port}}
spec:
  nodeSelector: {kubernetes.io/hostname: "` + node + `"}
  terminationGracePeriodSeconds: 0
  containers:
  - name: peer
    image: peer:e2e
    args: [serve, "8080"]
    ports: [{containerPort: 8080, hostPort: 18081}, {containerPort: 8080, hostPort: 18081, protocol: UDP}]`)
		ip := c.nodes[node].Address.String()
		answers["http://"+ip+":18080/"] = node // a pod with the node's network has its name
		answers["http://"+ip+":18081/"] = "port-" + node
		answers["udp://"+ip+":18081?size=100"] = "port-" + node
	}
	for who, ask := range c.everybody(t, n) {
		want(t, who, ask, answers)
	}

	// Pods with the node's network reach pods, Services and names as others do.
	n.Apply(service("peer", "{app: peer}", ""))
	ip := n.Get("service/peer", "{.spec.clusterIP}")
	for _, node := range nodes {
		answers := map[string]string{
			"http://peer." + n.Name + ".svc.cluster.local:8080/": "peer-",
			"dns:peer." + n.Name + ".svc.cluster.local":          ip,
		}
		for _, to := range nodes {
			answers["http://"+n.Get("pod/"+podOn(to), "{.status.podIP}")+":8080/"] = podOn(to)
		}
		want(t, "the pod with the network of node "+node, fromPod(n, "host-"+node), answers)
	}
}

// service is one on port 8080.
func service(name, selector, more string) string {
	return `
apiVersion: v1
kind: Service
metadata: {name: ` + name + `}
spec:
  selector: ` + selector + `
  ports:
  - {name: tcp, port: 8080}
  - {name: udp, port: 8080, protocol: UDP}
  ` + more + `
---`
}

func TestServiceWithPodOnOneNode(t *testing.T) {
	c, n := namespace(t)
	peers(n, nodes)
	for _, at := range nodes {
		n.Apply(service("at-"+at, `{app: peer, node: "`+at+`"}`, ""))
	}
	answers := make(map[string]string)
	for _, at := range nodes {
		ip := n.Get("service/at-"+at, "{.spec.clusterIP}")
		answers["http://"+ip+":8080/"] = podOn(at)
		answers["udp://"+ip+":8080?size=100"] = podOn(at)
	}
	for who, ask := range c.everybody(t, n) {
		if who != "the host outside" {
			want(t, who, ask, answers)
		}
	}
}

func TestServiceSpreadsOverNodes(t *testing.T) {
	c, n := namespace(t)
	peers(n, nodes)
	n.Apply(service("all", "{app: peer}", ""))
	var all []string
	for _, node := range nodes {
		all = append(all, podOn(node))
	}
	ip := n.Get("service/all", "{.spec.clusterIP}")
	for who, ask := range c.everybody(t, n) {
		if who == "the host outside" {
			continue
		}
		wantAll(t, who, ask, "http://"+ip+":8080/", all)
		wantAll(t, who, ask, "udp://"+ip+":8080?size=100", all)
	}
}

func TestNodePortOnEveryNode(t *testing.T) {
	c, n := namespace(t)
	peers(n, nodes)
	last := nodes[len(nodes)-1]
	n.Apply(service("cluster", `{app: peer, node: "`+last+`"}`, "type: NodePort") +
		service("local", `{app: peer, node: "`+last+`"}`, "type: NodePort\n  externalTrafficPolicy: Local"))
	port := func(service, protocol string) string {
		return n.Get("service/"+service, `{.spec.ports[?(@.name=="`+protocol+`")].nodePort}`)
	}
	answers := make(map[string]string)
	for _, h := range c.nodes {
		answers["http://"+h.Address.String()+":"+port("cluster", "tcp")+"/"] = podOn(last)
		answers["udp://"+h.Address.String()+":"+port("cluster", "udp")+"?size=100"] = podOn(last)
	}
	for who, ask := range c.everybody(t, n) {
		want(t, who, ask, answers)
	}

	// With the policy Local only the pod's own node answers, and the pod sees who asks.
	outside := fromHost(t, c.outsider)
	want(t, "the host outside", outside, map[string]string{
		"http://" + c.nodes[last].Address.String() + ":" + port("local", "tcp") + "/": podOn(last) + " " + c.outsider.Address.String(),
	})
	for _, other := range nodes[:len(nodes)-1] {
		out, err := outside("http://" + c.nodes[other].Address.String() + ":" + port("local", "tcp") + "/")
		if err != nil || !strings.HasPrefix(out, "error: ") {
			t.Errorf("node %s, where the pod is not: %s, %v", other, out, err)
		}
	}
}

func TestNamesOnEveryNode(t *testing.T) {
	c, n := namespace(t)
	address := peers(n, nodes)
	var all []string
	for _, ip := range address {
		all = append(all, ip)
	}
	slices.Sort(all)
	n.Apply(service("all", "{app: peer}", "") + service("headless", "{app: peer}", "clusterIP: None") + `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: set}
spec:
  serviceName: set
  replicas: 3
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: set}}
  template:
    metadata: {labels: {app: set}}
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: set}}}
      containers: [{name: peer, image: "peer:e2e", args: [serve, "8080"]}]
---` + service("set", "{app: set}", "clusterIP: None"))
	answers := map[string]string{
		"dns:kubernetes.default":                   n.Kubectl("-n", "default", "get", "service/kubernetes", "-o", "jsonpath={.spec.clusterIP}"),
		"dns:all." + n.Name + ".svc.cluster.local": n.Get("service/all", "{.spec.clusterIP}"),
		"dns:all":           n.Get("service/all", "{.spec.clusterIP}"),
		"dns:headless":      strings.Join(all, " "),
		"http://all:8080/":  "peer-",
		"dns:no-such-thing": "error: lookup no-such-thing",
	}
	for i := range 3 {
		pod := fmt.Sprintf("set-%d", i)
		n.Want("pod/"+pod, "{.status.phase}", "Running")
		answers["dns:"+pod+".set"] = n.Get("pod/"+pod, "{.status.podIP}")
		answers["http://"+pod+".set:8080/"] = pod
	}
	for _, node := range nodes {
		want(t, "the pod on "+node, fromPod(n, podOn(node)), answers)
	}
	if on := strings.Fields(n.Kubectl("get", "pods", "-l", "app=set", "-o", "jsonpath={.items[*].spec.nodeName}")); len(slices.Compact(slices.Sorted(slices.Values(on)))) != len(c.nodes) {
		t.Errorf("the pods of the StatefulSet are on %v", on)
	}
}

func TestPodMovesToAnotherNode(t *testing.T) {
	_, n := namespace(t)
	n.Apply(peerPod(nodes[0]) + service("moves", "{app: moves}", "") + `
apiVersion: apps/v1
kind: Deployment
metadata: {name: moves}
spec:
  selector: {matchLabels: {app: moves}}
  template:
    metadata: {labels: {app: moves}}
    spec:
      nodeSelector: {kubernetes.io/hostname: "` + nodes[1] + `"}
      terminationGracePeriodSeconds: 0
      containers:
      - name: peer
        image: peer:e2e
        args: [serve, "8080"]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}`)
	n.WaitFor("pod/"+podOn(nodes[0]), "Ready")
	ask := fromPod(n, podOn(nodes[0]))
	pod := func() (name, node string) {
		t.Helper()
		n.Kubectl("rollout", "status", "deployment/moves", "--timeout=100s")
		framework.Eventually(t, framework.Patience, func() error {
			all := strings.Fields(n.Kubectl("get", "pods", "-l", "app=moves", "-o", "jsonpath={.items[*].metadata.name}"))
			if len(all) != 1 {
				return fmt.Errorf("pods %v", all)
			}
			name = all[0]
			return nil
		})
		return name, n.Get("pod/"+name, "{.spec.nodeName}")
	}
	for _, node := range []string{nodes[1], nodes[2], nodes[0]} {
		n.Kubectl("patch", "deployment/moves", "--patch", `{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":"`+node+`"}}}}}`)
		name, at := pod()
		if at != node {
			t.Errorf("the pod is on node %s, want %s", at, node)
		}
		want(t, "the pod on "+nodes[0], ask, map[string]string{
			"http://moves:8080/":        name,
			"udp://moves:8080?size=100": name,
		})
	}
}

// What crosses nodes is wrapped in packets of a larger size: pods must know that theirs have to be smaller.
func TestLargeTransfers(t *testing.T) {
	c, n := namespace(t)
	address := peers(n, nodes)
	fragments := func() string {
		t.Helper()
		var all strings.Builder
		for _, node := range nodes {
			all.WriteString(node + ": " + c.nodes[node].Shell(t, `
				awk '/^Ip:/ { if (!names) names = split($0, name); else for (i = 2; i <= NF; i++) if (name[i] ~ /^Frag/) printf "%s %s ", name[i], $i }
			' /proc/net/snmp`) + "\n")
		}
		return all.String()
	}
	before := fragments()
	for i, from := range nodes {
		if mtu, err := n.Exec(podOn(from), "cat", "/sys/class/net/eth0/mtu"); err != nil || mtu != "1450" {
			t.Errorf("MTU in the pod on %s: %q, %v", from, mtu, err)
		}
		to := nodes[(i+1)%len(nodes)]
		const size = 10 << 20
		for _, way := range [][2]string{{from, to}, {to, from}} {
			want(t, "the pod on "+way[0], fromPod(n, podOn(way[0])), map[string]string{
				fmt.Sprintf("http://%s:8080/bytes?n=%d", address[way[1]], size): fmt.Sprintf("%d bytes", size),
			})
		}
	}
	if after := fragments(); after != before {
		t.Errorf("packets between the nodes were cut into fragments:\n%s\n%s", before, after)
	}
	for _, from := range nodes {
		answers := make(map[string]string)
		for _, to := range nodes {
			for _, size := range []int{1422, 1423, 1472, 8000, 60000} { // the first still fits in one packet
				answers[fmt.Sprintf("udp://%s:8080?size=%d", address[to], size)] = podOn(to)
			}
		}
		want(t, "the pod on "+from, fromPod(n, podOn(from)), answers)
	}
}

// Without a tunnel: nodes on one network route to each other's pods.
func TestHostGateway(t *testing.T) {
	t.Parallel()
	framework.NeedEdgebox(t)
	names := []string{"left", "right"}
	c, err := boot(netip.MustParsePrefix("192.168.79.0/24"), names, "--flannel-backend=host-gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, h := range c.nodes {
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		}
		_ = c.outsider.Close()
	})
	n := c.namespace(t, names[0])
	address := peers(n, names)
	n.Apply(service("all", "{app: peer}", ""))
	var all []string
	for i, from := range names {
		to := names[1-i]
		all = append(all, podOn(from))
		if links := c.nodes[from].Shell(t, "ls /sys/class/net"); strings.Contains(links, "flannel") {
			t.Errorf("links of node %s: %s", from, links)
		}
		cidr := n.Kubectl("get", "node", to, "-o", "jsonpath={.spec.podCIDR}")
		route := cidr + " via " + c.nodes[to].Address.String() + " dev eth0"
		if routes := c.nodes[from].Shell(t, "ip route"); !strings.Contains(routes, route) {
			t.Errorf("node %s has no route %s:\n%s", from, route, routes)
		}
		if mtu, err := n.Exec(podOn(from), "cat", "/sys/class/net/eth0/mtu"); err != nil || mtu != "1500" {
			t.Errorf("MTU in the pod on %s: %q, %v", from, mtu, err)
		}
		answers := map[string]string{
			"http://" + address[to] + ":8080/":                 podOn(to) + " " + address[from],
			"http://" + address[to] + ":8080/bytes?n=10000000": "10000000 bytes",
			"udp://" + address[to] + ":8080?size=100":          podOn(to) + " " + address[from],
			"http://all:8080/":                                 "peer-",
		}
		want(t, "the pod on "+from, fromPod(n, podOn(from)), answers)
	}
	for who, ask := range c.everybody(t, n) {
		if who != "the host outside" {
			wantAll(t, who, ask, "http://"+n.Get("service/all", "{.spec.clusterIP}")+":8080/", all)
		}
	}
}

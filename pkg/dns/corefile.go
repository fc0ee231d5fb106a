package dns

import (
	"fmt"
	"net/netip"
	"strings"
)

// directives are all that a Corefile here may hold, in the order in which a query passes them.
var directives = []string{"bind", "errors", "loadbalance", "cache", directiveCluster, "forward", directiveUnresolvable}

// corefile is what differs between the configurations of nodes.
type corefile struct {
	port      int
	addresses []netip.Addr // to listen on
	domain    string
	upstreams []netip.Addr // asked for names outside the cluster
}

// render is pure.
//
// Names of the cluster are not cached: they are in memory, and a name that does not exist yet may a second later.
// An error is logged when it first occurs, then counted for a while.
func (c corefile) render() string {
	var b strings.Builder
	p := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	p(".:%d {", c.port)
	p("    bind %s", joined(c.addresses))
	p("    errors {")
	p("        consolidate 5m .* warning show_first")
	p("    }")
	p("    loadbalance")
	p("    cache 30 {")
	p("        disable success %s", c.domain)
	p("        disable denial %s", c.domain)
	p("    }")
	p("    %s %s in-addr.arpa ip6.arpa {", directiveCluster, c.domain)
	p("        pods insecure")
	p("        ttl 30")
	p("        fallthrough in-addr.arpa ip6.arpa")
	p("    }")
	switch len(c.upstreams) {
	case 0:
		p("    %s", directiveUnresolvable)
	case 1:
		// A single server is asked in any case; whether it is healthy need not be known.
		p("    forward . %s {", joined(c.upstreams))
		p("        max_concurrent 1000")
		p("        max_fails 0")
		p("    }")
	default:
		// In their order, like the host's resolver. One that fails is passed over, and probed until it answers.
		p("    forward . %s {", joined(c.upstreams))
		p("        max_concurrent 1000")
		p("        policy sequential")
		p("        health_check 10s")
		p("    }")
	}
	p("}")
	return b.String()
}

func joined(addrs []netip.Addr) string {
	var s []string
	for _, a := range addrs {
		s = append(s, a.String())
	}
	return strings.Join(s, " ")
}

package preflight

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// listener is a socket of the host that keeps others from a port.
type listener struct {
	addr  netip.AddrPort
	udp   bool
	inode string
}

// listeners reads /proc/net/{tcp,tcp6,udp,udp6}; proc_net(5) has their format.
func (h *host) listeners() []listener {
	const listening = "0A"
	var ls []listener
	for _, proto := range []string{"tcp", "tcp6", "udp", "udp6"} {
		udp := strings.HasPrefix(proto, "udp")
		for line := range strings.Lines(h.read("/proc/thread-self/net/" + proto)) {
			f := strings.Fields(line)
			if len(f) < 10 || !udp && f[3] != listening {
				continue
			}
			if addr, valid := procAddr(f[1]); valid {
				ls = append(ls, listener{addr, udp, f[9]})
			}
		}
	}
	return ls
}

// procAddr parses 0100007F:1F90: 32-bit words in the host's byte order, which is little-endian wherever edgebox runs.
func procAddr(s string) (netip.AddrPort, bool) {
	host, port, found := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	n, perr := strconv.ParseUint(port, 16, 16)
	if !found || err != nil || perr != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	addr, valid := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), valid
}

// blocks reports whether l keeps edgebox from listening on p.
func (l listener) blocks(p Port) bool {
	if int(l.addr.Port()) != p.Number || l.udp != p.UDP {
		return false
	}
	addr := p.Addr.Unmap()
	return !addr.IsValid() || addr.IsUnspecified() || l.addr.Addr().IsUnspecified() || l.addr.Addr() == addr
}

func probePorts(h *host, in Input) []Result {
	blocked := make(map[int]listener, len(in.Ports)) // by index
	for _, l := range h.listeners() {
		for i, p := range in.Ports {
			if l.blocks(p) {
				blocked[i] = l
			}
		}
	}
	if len(blocked) == 0 {
		return ok("ports", "%d ports are free", len(in.Ports))
	}
	var inodes []string
	for _, l := range blocked {
		inodes = append(inodes, l.inode)
	}
	holders := h.holders(inodes)

	var rs []Result
	own := 0
	for i, p := range in.Ports {
		l, isBlocked := blocked[i]
		if !isBlocked {
			continue
		}
		who, found := holders[l.inode]
		if h.ours(in, p, who, found) {
			own++
			continue
		}
		rs = append(rs, portTaken(p, who, found))
	}
	if own > 0 || len(rs) == 0 {
		rs = append(rs, ok("ports", "%d of %d ports are edgebox's already", own, len(in.Ports))...)
	}
	return rs
}

// ours: the kernel keeps the port of flannel's link across a restart, and while edgebox runs all ports are its own.
func (h *host) ours(in Input, p Port, who process, found bool) bool {
	if p.UDP && !found { // the kernel's own socket: no process has it open
		return slices.ContainsFunc(in.Own, func(o string) bool { return strings.HasPrefix(o, "link flannel") })
	}
	return !in.StartUp && found && below(who.exe, in.Paths.Bin())
}

func portTaken(p Port, who process, found bool) Result {
	proto, fix := "", "stop it"
	if p.UDP {
		proto = "/udp"
	}
	if p.Option != "" {
		fix += " or set " + p.Option
	}
	by := fmt.Sprintf("pid %d (%s)", who.pid, who.comm)
	switch {
	case found:
	case p.UDP:
		by, fix = "the kernel", fmt.Sprintf("remove the link that another product left (%s)", showLinks(p))
	default:
		by, fix = "a process that cannot be seen from here", strings.Replace(fix, "stop it", "stop that", 1)
	}
	return Result{"ports", Error, fmt.Sprintf("port %d%s, for %s, is in use by %s", p.Number, proto, p.Use, by), fix}
}

// showLinks is the command that lists the links that may hold a port.
func showLinks(p Port) string {
	if p.Number == 8472 {
		return "ip -d link show type vxlan"
	}
	return "ip -d link show type wireguard"
}

type process struct {
	pid  int
	comm string
	exe  string
}

func (h *host) process(pid int) process {
	return process{pid, h.read(proc(pid, "comm")), h.link(proc(pid, "exe"))}
}

// holders finds the processes that have sockets with these inodes open.
func (h *host) holders(inodes []string) map[string]process {
	found := make(map[string]process, len(inodes))
	for _, pid := range h.pids() {
		for _, fd := range h.files(proc(pid, "fd")) {
			target := h.link(proc(pid, "fd/"+fd))
			inode, isSocket := strings.CutPrefix(target, "socket:[")
			inode = strings.TrimSuffix(inode, "]")
			if isSocket && slices.Contains(inodes, inode) {
				found[inode] = h.process(pid)
			}
		}
		if len(found) == len(inodes) {
			break
		}
	}
	return found
}
